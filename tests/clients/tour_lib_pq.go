// A tour through lib/pq, connected by the PG* environment. Facts are printed as lines key=value.
package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/lib/pq"
)

const oddText = "é – 漢字 🐘 'quoted' \\ back\nnext line"

var background = context.Background()

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func fact(name string, value interface{}) {
	fmt.Printf("%s=%q\n", name, fmt.Sprint(value))
}

// sqlstate is the code of an error, or nothing.
func sqlstate(err error) string {
	var failure *pq.Error
	if errors.As(err, &failure) {
		return string(failure.Code)
	}
	return fmt.Sprint(err)
}

func execute(db *sql.Conn, statement string, parameters ...interface{}) error {
	_, err := db.ExecContext(background, statement, parameters...)
	return err
}

func value(db *sql.Conn, statement string, parameters ...interface{}) string {
	var found sql.NullString
	must(db.QueryRowContext(background, statement, parameters...).Scan(&found))
	return fmt.Sprint(found)
}

func statements(db *sql.Conn) {
	must(execute(db, "create temporary table numbers (n int primary key, text text)"))
	must(execute(db, "select 1; select 2, null; insert into numbers values (-1, 'x')"))
	fact("value", value(db, "select $1::text", oddText))
	fact("null", value(db, "select $1::int", nil))
	fact("bytes", value(db, "select encode($1::bytea, 'hex')", []byte{0, 255}))
	insert, err := db.PrepareContext(background, "insert into numbers values ($1, $2)")
	must(err)
	for n := 0; n < 3; n++ {
		_, err = insert.Exec(n, fmt.Sprintf("é%d", n))
		must(err)
	}
	_, err = insert.Exec(1, "again")
	fact("duplicate", sqlstate(err))
	must(insert.Close())
	must(execute(db, ""))
	rows, err := db.QueryContext(background, "select n from numbers; select text from numbers")
	must(err)
	sets := 1
	for rows.Next() || rows.NextResultSet() {
		sets++
	}
	must(rows.Close())
	fact("several", sets)
}

func failures(db *sql.Conn) {
	fact("syntax", sqlstate(execute(db, "selec 1")))
	fact("syntax_of_parse", sqlstate(execute(db, "selec $1", 1)))
	fact("at_run_time", sqlstate(execute(db, "select 1 / $1::int", 0)))
	fact("in_the_middle", sqlstate(execute(db, "select 1; select 1 / 0; select 3")))
	fact("bad_value", sqlstate(execute(db, "select $1::int", "no number")))
	fact("unknown_table", sqlstate(execute(db, "select * from nowhere where n = $1", 1)))
}

func transactions(db *sql.Conn) {
	tx, err := db.BeginTx(background, &sql.TxOptions{Isolation: sql.LevelSerializable})
	must(err)
	_, err = tx.Exec("insert into numbers values ($1, 'kept')", 100)
	must(err)
	_, err = tx.Exec("savepoint inner_one")
	must(err)
	_, err = tx.Exec("select nothing")
	fact("nothing_there", sqlstate(err))
	_, err = tx.Exec("select $1::int", 1)
	fact("in_a_failed_transaction", sqlstate(err))
	_, err = tx.Exec("rollback to savepoint inner_one")
	must(err)
	must(tx.Commit())
	tx, err = db.BeginTx(background, nil)
	must(err)
	_, err = tx.Exec("insert into numbers values (101, 'dropped')")
	must(err)
	must(tx.Rollback())
	fact("kept", value(db, "select count(*) from numbers where n >= 100"))
	must(execute(db, "create temporary table child (n int references numbers deferrable initially deferred)"))
	// The error comes at the end of the transaction: for a statement on its own, at Sync.
	fact("deferred", sqlstate(execute(db, "insert into child values ($1)", 12345)))
}

func copies(db *sql.Conn) {
	tx, err := db.BeginTx(background, nil)
	must(err)
	copyIn, err := tx.Prepare(pq.CopyIn("numbers", "n", "text"))
	must(err)
	for n := 1000; n < 2000; n++ {
		_, err = copyIn.Exec(n, fmt.Sprintf("é%d", n))
		must(err)
	}
	_, err = copyIn.Exec()
	must(err)
	must(copyIn.Close())
	must(tx.Commit())
	fact("copied", value(db, "select count(*) from numbers where n >= 1000"))
	tx, err = db.BeginTx(background, nil)
	must(err)
	copyIn, err = tx.Prepare(pq.CopyIn("numbers", "n", "text"))
	must(err)
	_, err = copyIn.Exec("nonsense", "x")
	must(err)
	_, err = copyIn.Exec()
	fact("copy_of_nonsense", sqlstate(err))
	copyIn.Close()
	must(tx.Rollback())
}

func notifications(db *sql.Conn) {
	listener := pq.NewListener("", time.Second, time.Minute, nil)
	must(listener.Listen("lib_pq_news"))
	must(execute(db, "select pg_notify($1, $2)", "lib_pq_news", oddText))
	news := <-listener.Notify
	fact("notify", news.Channel+" "+news.Extra)
	must(listener.Close())
}

func cancellations(db *sql.Conn, cancelled context.Context) {
	must(execute(db, "set statement_timeout = 300"))
	fact("timeout", sqlstate(execute(db, "select pg_sleep(600)")))
	must(execute(db, "set statement_timeout = 0"))
	_, err := db.ExecContext(cancelled, "do $$ begin raise notice 'running'; perform pg_sleep(600); end $$")
	fact("cancel", sqlstate(err))
}

func bySQL(db *sql.Conn) {
	must(execute(db, "prepare by_sql (int) as select $1 + 1"))
	fact("execute_by_sql", value(db, "execute by_sql (41)"))
	must(execute(db, "deallocate by_sql"))
	fact("deallocated", sqlstate(execute(db, "execute by_sql (41)")))
	must(execute(db, "discard all"))
	fact("alive", value(db, "select 'still ' || $1", "here"))
}

func main() {
	cancelled, cancel := context.WithCancel(background)
	base, err := pq.NewConnector("")
	must(err)
	connector := pq.ConnectorWithNoticeHandler(base, func(*pq.Error) { cancel() })
	pool := sql.OpenDB(connector)
	db, err := pool.Conn(background)
	must(err)
	statements(db)
	failures(db)
	transactions(db)
	copies(db)
	notifications(db)
	bySQL(db)
	// Last: the pool gives up a session whose statement was cancelled.
	cancellations(db, cancelled)
	// Closing what the driver has given up already is an error to it.
	_ = db.Close()
	_ = pool.Close()
}
