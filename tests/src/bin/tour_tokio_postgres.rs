//! A tour through tokio-postgres, connected by the PG* environment. Facts are printed as lines key=value.

use std::env;
use std::pin::pin;

use anyhow::{Context, Result, bail};
use futures_util::sink::SinkExt;
use futures_util::{FutureExt, StreamExt, TryStreamExt, future, stream};
use openssl::ssl::{SslConnector, SslMethod};
use postgres_openssl::{MakeTlsConnector, TlsConnector};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_postgres::config::SslMode;
use tokio_postgres::types::Type;
use tokio_postgres::{AsyncMessage, Client, Config, Error, SimpleQueryMessage};

const ODD_TEXT: &str = "é – 漢字 🐘 'quoted' \\ back\nnext line";

fn fact(name: &str, value: impl std::fmt::Debug) {
    println!("{name}={value:?}");
}

/// The SQLSTATE something fails with.
fn sqlstate<T>(result: Result<T, Error>) -> Option<String> {
    let error = result.err()?;
    Some(
        error
            .code()
            .map_or(error.to_string(), |code| code.code().to_owned()),
    )
}

fn variable(name: &str) -> Result<String> {
    env::var(name).with_context(|| format!("{name} is not set"))
}

fn tls() -> Result<SslConnector> {
    let mut connector = SslConnector::builder(SslMethod::tls())?;
    if let Some(authority) = env::var_os("PGSSLROOTCERT") {
        connector.set_ca_file(authority)?;
    }
    Ok(connector.build())
}

async fn connect() -> Result<(Client, UnboundedReceiver<AsyncMessage>)> {
    let mut config = Config::new();
    config
        .host(variable("PGHOST")?)
        .port(variable("PGPORT")?.parse()?)
        .user(variable("PGUSER")?)
        .dbname(variable("PGDATABASE")?)
        .application_name(variable("PGAPPNAME")?)
        .ssl_mode(match variable("PGSSLMODE")?.as_str() {
            "disable" => SslMode::Disable,
            _ => SslMode::Require,
        });
    let (client, mut connection) = config.connect(MakeTlsConnector::new(tls()?)).await?;
    let (sender, receiver) = unbounded_channel();
    let mut messages = stream::poll_fn(move |context| connection.poll_message(context));
    tokio::spawn(async move {
        while let Some(Ok(message)) = messages.next().await {
            // Nobody may be listening any more.
            let _ = sender.send(message);
        }
    });
    Ok((client, receiver))
}

async fn statements(client: &Client) -> Result<()> {
    client
        .batch_execute("create temporary table numbers (n int primary key, text text)")
        .await?;
    let several = client
        .simple_query("select 1; select 2, null; insert into numbers values (-1, 'x')")
        .await?;
    let rows = several
        .iter()
        .filter(|message| matches!(message, SimpleQueryMessage::Row(_)));
    fact("several", rows.count());
    let row = client
        .query_one(
            "select $1::text, $2::int, $3::bytea",
            &[&ODD_TEXT, &None::<i32>, &[0_u8, 255].as_slice()],
        )
        .await?;
    fact(
        "value",
        (
            row.get::<_, &str>(0),
            row.get::<_, Option<i32>>(1),
            row.get::<_, &[u8]>(2),
        ),
    );
    let insert = client
        .prepare("insert into numbers values ($1, $2)")
        .await?;
    for n in 0..3 {
        client.execute(&insert, &[&n, &format!("é{n}")]).await?;
    }
    fact(
        "duplicate",
        sqlstate(client.execute(&insert, &[&1, &"again"]).await),
    );
    drop(insert);
    let typed = client
        .query_typed(
            "select n from numbers where n = $1",
            &[(&1_i32, Type::INT4)],
        )
        .await?;
    fact("typed", typed.len());
    fact("nothing", client.execute("", &[]).await?);
    client.batch_execute("").await?;
    // All of these are on their way before the first is answered.
    let several = (1..=50_i64).map(|n| async move {
        let row = client.query_one("select $1::int8 * 2", &[&n]).await?;
        Ok::<i64, Error>(row.get(0))
    });
    let doubled: Vec<i64> = future::try_join_all(several).await?;
    fact("pipelined", doubled.iter().sum::<i64>());
    Ok(())
}

async fn failures(client: &Client) {
    fact("syntax", sqlstate(client.batch_execute("selec 1").await));
    fact(
        "syntax_of_parse",
        sqlstate(client.execute("selec $1", &[&1]).await),
    );
    fact(
        "at_run_time",
        sqlstate(client.query("select 1 / $1::int", &[&0]).await),
    );
    fact(
        "in_the_middle",
        sqlstate(
            client
                .simple_query("select 1; select 1 / 0; select 3")
                .await,
        ),
    );
    fact(
        "unknown_table",
        sqlstate(
            client
                .query("select * from nowhere where n = $1", &[&1])
                .await,
        ),
    );
    let good = client.query("select $1::int", &[&1]);
    let bad = client.query("select 1 / $1::int", &[&0]);
    let (good, bad) = future::join(good, bad).await;
    fact("pipelined_failure", (sqlstate(good), sqlstate(bad)));
}

async fn transactions(client: &mut Client) -> Result<()> {
    let mut outer = client.transaction().await?;
    outer
        .execute("insert into numbers values ($1, 'kept')", &[&100])
        .await?;
    let inner = outer.savepoint("inner_one").await?;
    fact(
        "nothing_there",
        sqlstate(inner.batch_execute("select nothing").await),
    );
    fact(
        "in_a_failed_transaction",
        sqlstate(inner.query("select $1::int", &[&1]).await),
    );
    inner.rollback().await?;
    outer.commit().await?;
    // Dropped without an end: rolled back.
    let dropped = client.transaction().await?;
    dropped
        .batch_execute("insert into numbers values (101, 'dropped')")
        .await?;
    drop(dropped);
    let kept = client
        .query_one("select count(*) from numbers where n >= 100", &[])
        .await?;
    fact("kept", kept.get::<_, i64>(0));
    client
        .batch_execute(
            "create temporary table child (n int references numbers deferrable initially deferred)",
        )
        .await?;
    // The error comes at the end of the transaction: for a statement on its own, at Sync.
    fact(
        "deferred",
        sqlstate(
            client
                .execute("insert into child values ($1)", &[&12345])
                .await,
        ),
    );
    Ok(())
}

async fn copies(client: &Client) -> Result<()> {
    let mut sink = pin!(
        client
            .copy_in::<_, &[u8]>("copy numbers from stdin")
            .await?
    );
    for row in ["1000\té\n", "1001\t\\N\n"] {
        sink.send(row.as_bytes()).await?;
    }
    fact("copy_in", sink.as_mut().finish().await?);
    let mut sink = pin!(
        client
            .copy_in::<_, &[u8]>("copy numbers from stdin")
            .await?
    );
    sink.send(b"nonsense\n").await?;
    fact("copy_of_nonsense", sqlstate(sink.as_mut().finish().await));
    let rows = client
        .copy_out("copy (select n from numbers where n >= 1000) to stdout")
        .await?;
    let rows: Vec<_> = rows.try_collect().await?;
    fact("copy_out", rows);
    Ok(())
}

/// Portals of a row limit, suspended and asked again.
async fn portals(client: &mut Client) -> Result<()> {
    let transaction = client.transaction().await?;
    let portal = transaction
        .bind(
            "select n from generate_series(1, 1000) n where n > $1",
            &[&10],
        )
        .await?;
    let mut total = 0;
    loop {
        let rows = transaction.query_portal(&portal, 300).await?;
        total += rows.iter().map(|row| row.get::<_, i32>(0)).sum::<i32>();
        if rows.len() < 300 {
            break;
        }
    }
    fact("portal", total);
    transaction.commit().await?;
    Ok(())
}

async fn notifications(
    client: &Client,
    messages: &mut UnboundedReceiver<AsyncMessage>,
) -> Result<()> {
    client.batch_execute("listen tokio_news").await?;
    let (other, _) = connect().await?;
    other
        .query("select pg_notify($1, $2)", &[&"tokio_news", &ODD_TEXT])
        .await?;
    drop(other);
    while let Some(message) = messages.recv().await {
        if let AsyncMessage::Notification(news) = message {
            fact("notify", (news.channel(), news.payload()));
            return Ok(());
        }
    }
    bail!("the session ended without a notification")
}

/// Cancels what runs, and waits for the end of the connection that asked for it, as libpq does and this driver does not: the
/// server signals a process twice (`signal_child` in src/backend/postmaster/postmaster.c) before it closes that
/// connection, and the second signal may cancel what comes next.
async fn cancel(client: &Client) -> Result<()> {
    let host = variable("PGHOST")?;
    let address = (host.as_str(), variable("PGPORT")?.parse()?);
    let stream = TcpStream::connect(address).await?.into_std()?;
    let mut same = TcpStream::from_std(stream.try_clone()?)?;
    let connector = TlsConnector::new(tls()?.configure()?, &host);
    let token = client.cancel_token();
    let stream = TcpStream::from_std(stream)?;
    token.cancel_query_raw(stream, connector).await?;
    // A reset is an end too: the server does not read that TLS has ended.
    same.read_to_end(&mut Vec::new()).await.ok();
    Ok(())
}

async fn cancellations(
    client: &Client,
    messages: &mut UnboundedReceiver<AsyncMessage>,
) -> Result<()> {
    client.batch_execute("set statement_timeout = 300").await?;
    fact(
        "timeout",
        sqlstate(client.batch_execute("select pg_sleep(600)").await),
    );
    client.batch_execute("set statement_timeout = 0").await?;
    let running =
        client.batch_execute("do $$ begin raise notice 'running'; perform pg_sleep(600); end $$");
    let cancelled = async {
        while let Some(message) = messages.recv().await {
            if matches!(&message, AsyncMessage::Notice(notice) if notice.message() == "running") {
                return cancel(client).await;
            }
        }
        bail!("the session ended without a notice")
    };
    let (failed, cancelled) =
        future::join(running, cancelled.map(|result: Result<()>| result)).await;
    cancelled?;
    fact("cancel", sqlstate(failed));
    Ok(())
}

async fn by_sql(client: &Client) -> Result<()> {
    client
        .batch_execute("prepare by_sql (int) as select $1 + 1")
        .await?;
    let row = client.query_one("execute by_sql (41)", &[]).await?;
    fact("execute_by_sql", row.get::<_, i32>(0));
    client.batch_execute("deallocate by_sql").await?;
    fact(
        "deallocated",
        sqlstate(client.simple_query("execute by_sql (41)").await),
    );
    client.batch_execute("discard all").await?;
    let row = client
        .query_one("select 'still ' || $1", &[&"here"])
        .await?;
    fact("alive", row.get::<_, &str>(0));
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let (mut client, mut messages) = connect().await?;
    statements(&client).await?;
    failures(&client).await;
    transactions(&mut client).await?;
    copies(&client).await?;
    portals(&mut client).await?;
    notifications(&client, &mut messages).await?;
    cancellations(&client, &mut messages).await?;
    by_sql(&client).await
}
