// A tour through pgx, connected by the PG* environment. Facts are printed as lines key=value.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgconn"
	"github.com/jackc/pgx/v4"
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

// sqlstate is the code of an error, or its text.
func sqlstate(err error) string {
	var failure *pgconn.PgError
	if errors.As(err, &failure) {
		return failure.Code
	}
	return fmt.Sprint(err)
}

func connect(change func(*pgx.ConnConfig)) *pgx.Conn {
	config, err := pgx.ParseConfig("")
	must(err)
	change(config)
	session, err := pgx.ConnectConfig(background, config)
	must(err)
	return session
}

func execute(session *pgx.Conn, statement string, parameters ...interface{}) error {
	_, err := session.Exec(background, statement, parameters...)
	return err
}

func value(session *pgx.Conn, statement string, parameters ...interface{}) string {
	var found *string
	must(session.QueryRow(background, statement, parameters...).Scan(&found))
	if found == nil {
		return "null"
	}
	return *found
}

func statements(session *pgx.Conn) {
	must(execute(session, "create temporary table numbers (n int primary key, text text)"))
	several, err := session.PgConn().Exec(background, "select 1; select 2, null; insert into numbers values (-1, 'x')").ReadAll()
	must(err)
	for _, result := range several {
		fact("several", result.CommandTag)
	}
	fact("value", value(session, "select $1::text", oddText))
	fact("null", value(session, "select $1::text", nil))
	fact("bytes", value(session, "select encode($1::bytea, 'hex')", []byte{0, 255}))
	for n := 0; n < 3; n++ {
		// Prepared once by the driver's statement cache.
		must(execute(session, "insert into numbers values ($1, $2)", n, fmt.Sprintf("é%d", n)))
	}
	_, err = session.Prepare(background, "by name", "select text from numbers where n = $1")
	must(err)
	fact("by_name", value(session, "by name", 1))
	must(session.Deallocate(background, "by name"))
	fact("simple", value(session, "select $1::text", pgx.QuerySimpleProtocol(true), "a'b"))
	result := session.PgConn().ExecParams(background, "select $1", [][]byte{[]byte("unnamed")}, nil, nil, nil).Read()
	must(result.Err)
	fact("unnamed", string(result.Rows[0][0]))
	must(execute(session, ""))
}

func batches(session *pgx.Conn) {
	batch := &pgx.Batch{}
	for n := 10; n < 60; n++ {
		batch.Queue("insert into numbers values ($1, $2)", n, "batch")
	}
	batch.Queue("select count(*) from numbers")
	must(session.SendBatch(background, batch).Close())
	failing := &pgx.Batch{}
	failing.Queue("insert into numbers values ($1, $2)", 60, "gone with the next")
	failing.Queue("select 1 / $1::int", 0)
	failing.Queue("insert into numbers values ($1, $2)", 61, "never")
	results := session.SendBatch(background, failing)
	_, err := results.Exec()
	must(err)
	_, err = results.Exec()
	fact("failing_batch", sqlstate(err))
	results.Close()
	fact("after_batch", value(session, "select count(*)::text from numbers"))
}

func failures(session *pgx.Conn) {
	fact("syntax", sqlstate(execute(session, "selec 1")))
	fact("syntax_of_parse", sqlstate(execute(session, "selec $1", 1)))
	fact("at_run_time", sqlstate(execute(session, "select 1 / $1::int", 0)))
	fact("unknown_table", sqlstate(execute(session, "select * from nowhere where n = $1", 1)))
	fact("duplicate", sqlstate(execute(session, "insert into numbers values ($1, $2)", 1, "again")))
	_, err := session.PgConn().Exec(background, "select 1; select 1 / 0; select 3").ReadAll()
	fact("in_the_middle", sqlstate(err))
	result := session.PgConn().ExecParams(background, "select $1::int", [][]byte{[]byte("no number")}, nil, nil, nil).Read()
	fact("bad_value", sqlstate(result.Err))
}

func transactions(session *pgx.Conn) {
	tx, err := session.Begin(background)
	must(err)
	_, err = tx.Exec(background, "insert into numbers values ($1, $2)", 100, "kept")
	must(err)
	inner, err := tx.Begin(background)
	must(err)
	_, err = inner.Exec(background, "select nothing")
	fact("nothing_there", sqlstate(err))
	_, err = inner.Exec(background, "select $1::int + 1", 1)
	fact("in_a_failed_transaction", sqlstate(err))
	must(inner.Rollback(background))
	must(tx.Commit(background))
	fact("kept", value(session, "select count(*)::text from numbers where n >= 100"))
	must(execute(session, "create temporary table child (n int references numbers deferrable initially deferred)"))
	// The error comes at the end of the transaction: for a statement on its own, at Sync.
	fact("deferred", sqlstate(execute(session, "insert into child values ($1)", 12345)))
}

func copies(session *pgx.Conn) {
	rows := pgx.CopyFromSlice(1000, func(n int) ([]interface{}, error) { return []interface{}{n + 1000, "é"}, nil })
	copied, err := session.CopyFrom(background, pgx.Identifier{"numbers"}, []string{"n", "text"}, rows)
	must(err)
	fact("copied", copied)
	var out bytes.Buffer
	tag, err := session.PgConn().CopyTo(background, &out, "copy (select n from numbers where n > 1990) to stdout")
	must(err)
	fact("copy_out", tag.String()+out.String())
	_, err = session.PgConn().CopyFrom(background, strings.NewReader("nonsense\n"), "copy numbers from stdin")
	fact("copy_of_nonsense", sqlstate(err))
}

func largeObject(session *pgx.Conn) {
	tx, err := session.Begin(background)
	must(err)
	objects := tx.LargeObjects()
	// A number of its own choice, so that the statements are the same each time.
	id, err := objects.Create(background, 424242)
	must(err)
	object, err := objects.Open(background, id, pgx.LargeObjectModeRead|pgx.LargeObjectModeWrite)
	must(err)
	written, err := object.Write([]byte("large"))
	must(err)
	fact("large_object", written)
	must(object.Close())
	must(objects.Unlink(background, id))
	must(tx.Commit(background))
}

func notifications(session *pgx.Conn) {
	must(execute(session, "listen pgx_news"))
	other := connect(func(config *pgx.ConnConfig) { config.PreferSimpleProtocol = true })
	must(execute(other, "select pg_notify($1, $2)", "pgx_news", oddText))
	must(other.Close(background))
	news, err := session.WaitForNotification(background)
	must(err)
	fact("notify", news.Channel+" "+news.Payload)
}

func cancellations(session *pgx.Conn) {
	must(execute(session, "set statement_timeout = 300"))
	fact("timeout", sqlstate(execute(session, "select pg_sleep(600)")))
	must(execute(session, "set statement_timeout = 0"))
	fact("cancel", sqlstate(execute(session, "do $$ begin raise notice 'running'; perform pg_sleep(600); end $$")))
}

func bySQL(session *pgx.Conn) {
	must(execute(session, "prepare by_sql (int) as select ($1 + 1)::text"))
	fact("execute_by_sql", value(session, "execute by_sql (41)"))
	must(execute(session, "deallocate by_sql"))
	fact("deallocated", sqlstate(execute(session, "execute by_sql (41)")))
	must(execute(session, "discard all"))
	// The driver believes in its prepared statements still.
	fact("discarded", sqlstate(execute(session, "insert into numbers values ($1, $2)", 5, "x")))
}

func main() {
	session := connect(func(config *pgx.ConnConfig) {
		config.OnNotice = func(session *pgconn.PgConn, notice *pgconn.Notice) {
			if notice.Message == "running" {
				must(session.CancelRequest(background))
			}
		}
	})
	statements(session)
	batches(session)
	failures(session)
	transactions(session)
	copies(session)
	largeObject(session)
	notifications(session)
	cancellations(session)
	bySQL(session)
	must(session.Close(background))
}
