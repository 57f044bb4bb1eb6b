import java.io.StringReader;
import java.io.StringWriter;
import java.sql.BatchUpdateException;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Savepoint;
import java.sql.Statement;
import java.sql.Types;
import java.util.Arrays;
import java.util.Properties;

import org.postgresql.PGConnection;
import org.postgresql.PGNotification;
import org.postgresql.largeobject.LargeObject;
import org.postgresql.largeobject.LargeObjectManager;

/** A tour through pgjdbc, connected by the PG* environment. Facts are printed as lines key=value. */
public class TourJdbc {
    private static final String ODD_TEXT = "é – 漢字 🐘 'quoted' \\ back\nnext line";

    private interface Work {
        void run() throws SQLException;
    }

    public static void main(String[] arguments) throws Exception {
        for (String mode : new String[] {"extended", "simple"}) {
            try (Connection connection = connect(mode)) {
                System.out.println("mode=" + mode);
                statements(connection, mode);
                batches(connection);
                failures(connection);
                transactions(connection);
                copies(connection);
                fetchSize(connection);
                notifications(connection, mode);
                largeObject(connection);
                cancellation(connection);
                bySql(connection);
            }
        }
    }

    private static Connection connect(String mode) throws SQLException {
        Properties settings = new Properties();
        settings.setProperty("user", System.getenv("PGUSER"));
        settings.setProperty("ApplicationName", System.getenv("PGAPPNAME"));
        // Lets the driver name the application at once, not by a statement after the login.
        settings.setProperty("assumeMinServerVersion", "15");
        settings.setProperty("preferQueryMode", mode);
        settings.setProperty("sslmode", System.getenv("PGSSLMODE"));
        String authority = System.getenv("PGSSLROOTCERT");
        if (authority != null)
            settings.setProperty("sslrootcert", authority);
        String url = "jdbc:postgresql://" + System.getenv("PGHOST") + ":" + System.getenv("PGPORT") + "/"
                + System.getenv("PGDATABASE");
        return DriverManager.getConnection(url, settings);
    }

    private static void fact(String name, Object value) {
        System.out.println(name + "=" + String.valueOf(value).replace("\n", "\\n"));
    }

    private static String sqlstate(Work work) {
        try {
            work.run();
        } catch (SQLException error) {
            return error.getSQLState();
        }
        return null;
    }

    private static void execute(Connection connection, String sql) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            statement.execute(sql);
        }
    }

    private static String query(Connection connection, String sql, Object... parameters) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            for (int i = 0; i < parameters.length; i++) {
                if (parameters[i] == null)
                    statement.setNull(i + 1, Types.INTEGER);
                else
                    statement.setObject(i + 1, parameters[i]);
            }
            StringBuilder found = new StringBuilder();
            try (ResultSet rows = statement.executeQuery()) {
                while (rows.next())
                    for (int i = 1; i <= rows.getMetaData().getColumnCount(); i++)
                        found.append(rows.getString(i)).append('|');
            }
            return found.toString();
        }
    }

    private static void statements(Connection connection, String mode) throws SQLException {
        execute(connection, "create temporary table numbers (n int primary key, text text)");
        try (Statement statement = connection.createStatement()) {
            int sets = 0;
            int updates = 0;
            statement.execute("select 1; select 2, null; insert into numbers values (-1, 'x; y')");
            do {
                if (statement.getResultSet() != null)
                    sets++;
                else
                    updates += statement.getUpdateCount();
            } while (statement.getMoreResults() || statement.getUpdateCount() != -1);
            fact("several", sets + " sets, " + updates + " rows");
        }
        fact("value", query(connection, "select ?::text, ?::int", ODD_TEXT, null));
        // This version of the driver cannot write bytes into a text.
        if (mode.equals("extended"))
            fact("bytes", query(connection, "select ?::bytea", new byte[] {0, -1}));
        // A named statement and binary results from the fifth execution on.
        long sum = 0;
        try (PreparedStatement select = connection.prepareStatement("select n + ? from generate_series(1, 3) n")) {
            for (int n = 0; n < 10; n++) {
                select.setInt(1, n);
                try (ResultSet rows = select.executeQuery()) {
                    while (rows.next())
                        sum += rows.getInt(1);
                }
            }
        }
        fact("sum", sum);
        fact("metadata", connection.getMetaData().getDatabaseMajorVersion() > 0
                && connection.getMetaData().getTables(null, null, "numbers", null).next());
        execute(connection, "");
    }

    private static void batches(Connection connection) throws SQLException {
        try (PreparedStatement insert = connection.prepareStatement("insert into numbers values (?, ?)")) {
            for (int n = 0; n < 300; n++) {
                insert.setInt(1, n);
                insert.setString(2, "é" + n);
                insert.addBatch();
            }
            fact("batch", Arrays.stream(insert.executeBatch()).sum());
        }
        try (Statement statement = connection.createStatement()) {
            statement.addBatch("insert into numbers values (1000, 'a')");
            statement.addBatch("insert into numbers values (1000, 'b')");
            statement.addBatch("insert into numbers values (1001, 'c')");
            fact("failing_batch", sqlstate(() -> {
                try {
                    statement.executeBatch();
                } catch (BatchUpdateException error) {
                    throw error.getNextException();
                }
            }));
        }
        fact("after_batch", query(connection, "select count(*) from numbers"));
    }

    private static void failures(Connection connection) {
        fact("syntax", sqlstate(() -> execute(connection, "selec 1")));
        fact("syntax_of_parse", sqlstate(() -> query(connection, "selec ?", 1)));
        fact("at_run_time", sqlstate(() -> query(connection, "select 1 / ?", 0)));
        fact("in_the_middle", sqlstate(() -> execute(connection, "select 1; select 1 / 0; select 3")));
        fact("bad_value", sqlstate(() -> query(connection, "select ?::text::int", "no number")));
        fact("unknown_table", sqlstate(() -> query(connection, "select * from nowhere where n = ?", 1)));
        fact("duplicate", sqlstate(() -> execute(connection, "insert into numbers values (1, 'again')")));
    }

    private static void transactions(Connection connection) throws SQLException {
        connection.setAutoCommit(false);
        execute(connection, "insert into numbers values (2000, 'kept')");
        Savepoint savepoint = connection.setSavepoint("inner one");
        fact("nothing_there", sqlstate(() -> execute(connection, "select nothing")));
        fact("in_a_failed_transaction", sqlstate(() -> query(connection, "select ?", 1)));
        connection.rollback(savepoint);
        connection.commit();
        execute(connection, "insert into numbers values (2001, 'dropped')");
        connection.rollback();
        connection.setAutoCommit(true);
        fact("kept", query(connection, "select count(*) from numbers where n >= 2000"));
        execute(connection, "create temporary table child (n int references numbers deferrable initially deferred)");
        // The error comes at the end of the transaction: for a statement on its own, at Sync.
        fact("deferred", sqlstate(() -> execute(connection, "insert into child values (12345)")));
    }

    private static void copies(Connection connection) throws Exception {
        var copies = connection.unwrap(PGConnection.class).getCopyAPI();
        StringBuilder rows = new StringBuilder();
        for (int n = 3000; n < 4000; n++)
            rows.append(n).append("\té").append(n).append('\n');
        fact("copy_in", copies.copyIn("copy numbers from stdin", new StringReader(rows.toString())));
        StringWriter out = new StringWriter();
        copies.copyOut("copy (select n from numbers where n > 3990) to stdout", out);
        fact("copy_out", out);
        fact("copy_of_nonsense", sqlstate(() -> {
            try {
                copies.copyIn("copy numbers from stdin", new StringReader("nonsense\n"));
            } catch (java.io.IOException error) {
                throw new SQLException(error);
            }
        }));
        var given_up = copies.copyIn("copy numbers from stdin");
        given_up.cancelCopy();
    }

    /** Portals are suspended and go on: by the driver only within a transaction. */
    private static void fetchSize(Connection connection) throws SQLException {
        connection.setAutoCommit(false);
        long sum = 0;
        try (PreparedStatement select = connection.prepareStatement("select n from numbers where n >= ? order by n")) {
            select.setFetchSize(300);
            select.setInt(1, 3000);
            try (ResultSet rows = select.executeQuery()) {
                while (rows.next())
                    sum += rows.getInt(1);
            }
        }
        connection.commit();
        connection.setAutoCommit(true);
        fact("fetched", sum);
    }

    private static void notifications(Connection connection, String mode) throws SQLException {
        execute(connection, "listen jdbc_news");
        try (Connection other = connect(mode)) {
            query(other, "select pg_notify(?, ?)", "jdbc_news", ODD_TEXT);
        }
        for (PGNotification news : connection.unwrap(PGConnection.class).getNotifications(60_000))
            fact("notify", news.getName() + " " + news.getParameter());
    }

    /** Large objects travel as FunctionCall messages. */
    private static void largeObject(Connection connection) throws SQLException {
        byte[] written = new byte[100_000];
        Arrays.fill(written, (byte) 200);
        connection.setAutoCommit(false);
        LargeObjectManager manager = connection.unwrap(PGConnection.class).getLargeObjectAPI();
        long id = manager.createLO();
        try (LargeObject object = manager.open(id)) {
            object.write(written);
            object.seek(0);
            fact("large_object", Arrays.equals(written, object.read(written.length)));
        }
        manager.delete(id);
        connection.commit();
        fact("no_large_object", sqlstate(() -> manager.open(id)));
        connection.rollback();
        connection.setAutoCommit(true);
    }

    /** The driver's timer thread cancels over a second connection. */
    private static void cancellation(Connection connection) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            statement.setQueryTimeout(1);
            fact("cancel", sqlstate(() -> statement.execute("select pg_sleep(600)")));
        }
    }

    private static void bySql(Connection connection) throws SQLException {
        execute(connection, "prepare by_sql (int) as select $1 + 1");
        fact("execute_by_sql", query(connection, "execute by_sql (41)"));
        execute(connection, "deallocate by_sql");
        fact("deallocated", sqlstate(() -> query(connection, "execute by_sql (41)")));
        execute(connection, "discard all");
        fact("alive", query(connection, "select 'still ' || ?", "here"));
    }
}
