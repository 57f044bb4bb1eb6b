// A tour through node-postgres, connected by the PG* environment. Facts are printed as lines key=value.
'use strict';
const fs = require('fs');
const tls = require('tls');
const { Client } = require('pg');
const Cursor = require('pg-cursor');

const ODD_TEXT = "é – 漢字 🐘 'quoted' \\ back\nnext line";

function fact(name, value) {
  console.log(`${name}=${JSON.stringify(value)}`);
}

async function connect() {
  // node-postgres does not tell Node what host it dialled when that is an address; Node then looks for `localhost`.
  const verify = () => ({
    ca: fs.readFileSync(process.env.PGSSLROOTCERT, 'utf8'),
    checkServerIdentity: (_, certificate) => tls.checkServerIdentity(process.env.PGHOST, certificate),
  });
  // It reads the rest of the environment itself.
  const client = new Client({
    application_name: process.env.PGAPPNAME,
    ssl: process.env.PGSSLMODE === 'disable' ? false : verify(),
  });
  await client.connect();
  return client;
}

// The SQLSTATE a query fails with.
async function sqlstate(promise) {
  try {
    await promise;
  } catch (error) {
    return error.code;
  }
  return null;
}

async function statements(client) {
  await client.query('create temporary table numbers (n int primary key, text text)');
  const several = await client.query("select 1 as one; select 2 as two, null as none; insert into numbers values (-1, 'x')");
  fact('several', several.map((result) => [result.command, result.rowCount, result.rows]));
  fact('value', (await client.query('select $1::text as a, $2::int as b, $3::bytea as c', [ODD_TEXT, null, Buffer.from([0, 255])])).rows);
  for (let n = 0; n < 3; n++) {
    await client.query({ name: 'insert number', text: 'insert into numbers values ($1, $2)', values: [n, `é${n}`] });
  }
  fact('binary', (await client.query({ text: 'select n, text from numbers where n = 1', binary: true })).rows);
  fact('by_rows', (await client.query({ text: 'select n from generate_series(1, 1000) n where n > $1', values: [5], rows: 100 })).rowCount);
  fact('nothing', (await client.query('')).rowCount);
  fact('nothing_prepared', (await client.query({ name: 'nothing', text: '' })).rowCount);
  // Queued by the driver, sent one after the other.
  const queued = [1, 2, 3].map((n) => client.query('select $1::int * 2 as double', [n]));
  fact('queued', (await Promise.all(queued)).map((result) => result.rows[0].double));
}

async function failures(client) {
  fact('syntax', await sqlstate(client.query('selec 1')));
  fact('syntax_of_parse', await sqlstate(client.query('selec $1', [1])));
  fact('at_run_time', await sqlstate(client.query('select 1 / $1::int', [0])));
  fact('in_the_middle', await sqlstate(client.query('select 1; select 1 / 0; select 3')));
  fact('bad_value', await sqlstate(client.query('select $1::int', ['no number'])));
  fact('unknown_table', await sqlstate(client.query({ name: 'unknown', text: 'select * from nowhere where n = $1', values: [1] })));
  fact('duplicate', await sqlstate(client.query({ name: 'insert number', text: 'insert into numbers values ($1, $2)', values: [1, 'again'] })));
}

async function transactions(client) {
  await client.query('begin');
  await client.query('insert into numbers values ($1, $2)', [100, 'kept']);
  await client.query('savepoint inner_one');
  fact('nothing_there', await sqlstate(client.query('select nothing')));
  fact('in_a_failed_transaction', await sqlstate(client.query('select $1::int', [1])));
  await client.query('rollback to savepoint inner_one');
  await client.query('commit');
  fact('kept', (await client.query('select count(*) from numbers where n >= 100')).rows);
  await client.query('create temporary table child (n int references numbers deferrable initially deferred)');
  // The error comes at the end of the transaction: for a statement on its own, at Sync.
  fact('deferred', await sqlstate(client.query('insert into child values ($1)', [12345])));
}

async function cursor(client) {
  const cursor = client.query(new Cursor('select n from generate_series(1, 1000) n where n > $1', [10]));
  let sum = 0;
  for (let rows = await cursor.read(300); rows.length > 0; rows = await cursor.read(300)) {
    rows.forEach((row) => (sum += row.n));
  }
  await cursor.close();
  fact('cursor', sum);
  const unfinished = client.query(new Cursor('select n from generate_series(1, 1000) n'));
  fact('first', await unfinished.read(2));
  await unfinished.close();
}

async function copyFails(client) {
  // The driver itself answers COPY FROM STDIN with CopyFail.
  fact('copy_refused', await sqlstate(client.query('copy numbers from stdin')));
}

async function notifications(client) {
  await client.query('listen node_news');
  const heard = new Promise((resolve) => client.once('notification', resolve));
  const other = await connect();
  await other.query('select pg_notify($1, $2)', ['node_news', ODD_TEXT]);
  await other.end();
  const news = await heard;
  fact('notify', [news.channel, news.payload]);
}

async function cancellations(client) {
  await client.query('set statement_timeout = 300');
  fact('timeout', await sqlstate(client.query('select pg_sleep(600)')));
  await client.query('set statement_timeout = 0');
  const running = new (require('pg').Query)("do $$ begin raise notice 'running'; perform pg_sleep(600); end $$");
  const failed = new Promise((resolve) => running.once('error', resolve));
  client.once('notice', () => new Client().cancel(client, running));
  client.query(running);
  fact('cancel', (await failed).code);
}

async function bySql(client) {
  await client.query('prepare by_sql (int) as select $1 + 1 as sum');
  fact('execute_by_sql', (await client.query('execute by_sql (41)')).rows);
  await client.query('deallocate by_sql');
  fact('deallocated', await sqlstate(client.query('execute by_sql (41)')));
  await client.query('discard all');
  // The driver believes in its prepared statement still.
  fact('discarded', await sqlstate(client.query({ name: 'insert number', text: 'insert into numbers values ($1, $2)', values: [9, 'x'] })));
  fact('alive', (await client.query("select 'still ' || $1 as here", ['here'])).rows);
}

(async () => {
  const client = await connect();
  for (const stop of [statements, failures, transactions, cursor, copyFails, notifications, cancellations, bySql]) {
    await stop(client);
  }
  await client.end();
})();
