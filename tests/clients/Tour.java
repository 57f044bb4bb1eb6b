import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.Arrays;

import org.postgresql.PGConnection;
import org.postgresql.largeobject.LargeObject;
import org.postgresql.largeobject.LargeObjectManager;

/** A tour through pgjdbc: Tour URL. Facts are printed as lines key=value. */
public class Tour {
    public static void main(String[] arguments) throws Exception {
        System.out.println("pid=" + ProcessHandle.current().pid());
        try (Connection connection = DriverManager.getConnection(arguments[0])) {
            batch(connection);
            largeObject(connection);
            timeout(connection);
        }
    }

    /** Named statements, batches and binary transfer after the fifth execution. */
    private static void batch(Connection connection) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            statement.execute("create temporary table numbers (n int, text text)");
        }
        try (PreparedStatement insert = connection.prepareStatement("insert into numbers values (?, ?)")) {
            for (int n = 0; n < 1000; n++) {
                insert.setInt(1, n);
                insert.setString(2, "é" + n);
                insert.addBatch();
            }
            insert.executeBatch();
        }
        long sum = 0;
        try (PreparedStatement select = connection.prepareStatement("select n from numbers where n = ?")) {
            for (int n = 0; n < 20; n++) {
                select.setInt(1, n);
                try (ResultSet rows = select.executeQuery()) {
                    rows.next();
                    sum += rows.getInt(1);
                }
            }
        }
        System.out.println("sum=" + sum);
    }

    /** Large objects travel as FunctionCall messages. */
    private static void largeObject(Connection connection) throws SQLException {
        byte[] written = "large ".repeat(100_000).getBytes(StandardCharsets.UTF_8);
        connection.setAutoCommit(false);
        LargeObjectManager manager = connection.unwrap(PGConnection.class).getLargeObjectAPI();
        long id = manager.createLO();
        try (LargeObject object = manager.open(id)) {
            object.write(written);
            object.seek(0);
            System.out.println("large_object=" + Arrays.equals(written, object.read(written.length)));
        }
        manager.delete(id);
        connection.commit();
        connection.setAutoCommit(true);
    }

    /** The driver's timer thread cancels over a second connection. */
    private static void timeout(Connection connection) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            statement.setQueryTimeout(1);
            statement.execute("select pg_sleep(600)");
        } catch (SQLException error) {
            System.out.println("timeout=" + error.getSQLState());
        }
    }
}
