//! Charges an account once, however often it is asked to, and although one of those who carry it out is killed in the middle.
//!
//! Five clients ask for the same charge under one idempotency key. The first has taken the money, has not committed, and dies.
//! PostgreSQL rolls it back, money and record together; one of those that waited carries it out, and the others are given its
//! receipt.
//!
//! ```text
//! cargo run -p seaworthy --example charge_once --features idempotency-postgres
//! ```
//!
//! It starts a PostgreSQL of its own for the time, if one is installed; otherwise it uses the one at `DATABASE_URL`, in a schema
//! of its own, which it removes again.

#![expect(clippy::print_stdout, reason = "an example tells what it does")]
#![expect(
    clippy::unwrap_used,
    reason = "the server's start-up is shared with the tests, which may fail where they stand"
)]

#[path = "../tests/servers/mod.rs"]
mod servers;

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use seaworthy::idempotency::store::postgres::{Joined, Options, Postgres};
use seaworthy::idempotency::{Answer, Fingerprint, Id, Store as _, fingerprint};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls};

type Failed = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<ExitCode, Failed> {
    let own = servers::postgres_is_installed().then(servers::Postgres::start);
    let url = match (&own, std::env::var("DATABASE_URL")) {
        (Some(own), _) => own.url(),
        (None, Ok(url)) => url,
        (None, Err(_)) => {
            println!(
                "There is no PostgreSQL on this machine (its program `initdb` was looked for), and no DATABASE_URL."
            );
            println!(
                "Either install one (Debian: apt-get install postgresql), or set DATABASE_URL, for example to"
            );
            println!("postgresql://user:password@127.0.0.1:5432/database");
            return Ok(ExitCode::FAILURE);
        }
    };
    let (client, _) = connect(&url).await?;
    client.batch_execute(ACCOUNTS).await?;
    charge_in_spite_of_everything(&url).await?;
    let balance: i64 = client.query_one("SELECT balance FROM charge_once.accounts", &[]).await?.get(0);
    client.batch_execute("DROP SCHEMA charge_once CASCADE").await?;
    println!("The account had 100 and has {balance}.");
    if balance == 70 {
        println!("It was charged exactly once.");
        return Ok(ExitCode::SUCCESS);
    }
    println!("That is wrong: one charge is 30.");
    Ok(ExitCode::FAILURE)
}

/// One client that dies, then four that ask for the same.
async fn charge_in_spite_of_everything(url: &str) -> Result<(), Failed> {
    let options =
        Options { schema: "charge_once".into(), timeout: Duration::from_secs(10), ..Options::default() };
    let keys = Postgres::new(url, options, Handle::current())?;

    let (mut client, line) = connect(url).await?;
    let (tell, charged) = oneshot::channel();
    let victim = tokio::spawn({
        let keys = keys.clone();
        async move {
            let transaction = client.transaction().await?;
            let joined = keys.join(&transaction, &key(), asked(), RETENTION).await?;
            assert!(matches!(joined, Joined::First(_)), "nobody was before it: {joined:?}");
            transaction.execute(TAKE, &[&AMOUNT]).await?;
            let _nobody_listens = tell.send(());
            // It never comes to its commit.
            std::future::pending::<Result<(), Failed>>().await
        }
    });
    charged.await?;
    println!("client 0: first; it took 30 and has not committed");

    let others: Vec<_> = (1..5)
        .map(|client| {
            let (keys, url) = (keys.clone(), url.to_owned());
            tokio::spawn(async move { charge(&keys, &url, client).await })
        })
        .collect();
    // As if its process were killed: nobody says goodbye to the server, the connection is just gone.
    line.abort();
    victim.abort();
    println!("client 0: killed");
    for other in others {
        println!("{}", other.await??);
    }
    // What a program does every minute or so: PostgreSQL forgets nothing by itself.
    let swept = keys.sweep(1_000).await?;
    println!("{swept} keys were past their retention");
    Ok(())
}

/// What a handler does: join the key, have the effect, keep the receipt, commit.
async fn charge(keys: &Postgres, url: &str, number: u32) -> Result<String, Failed> {
    let (mut client, _) = connect(url).await?;
    let transaction = client.transaction().await?;
    match keys.join(&transaction, &key(), asked(), RETENTION).await? {
        Joined::First(first) => {
            let left: i64 = transaction.query_one(TAKE, &[&AMOUNT]).await?.get(0);
            let receipt = format!("charged by client {number}, {left} left");
            first.keep(&Answer { body: Bytes::from(receipt.clone()), ..Answer::default() }).await?;
            transaction.commit().await?;
            Ok(format!("client {number}: first; {receipt}"))
        }
        Joined::Replay(receipt) if receipt.is_whole() => {
            Ok(format!("client {number}: replayed; {}", String::from_utf8_lossy(&receipt.body)))
        }
        // The same key for another amount, say, or for a charge that something else began.
        other => Err(format!("client {number}: no receipt: {other:?}").into()),
    }
}

async fn connect(url: &str) -> Result<(Client, JoinHandle<()>), Failed> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    // Its end is told to who uses the client.
    let line = tokio::spawn(async move { drop(connection.await) });
    Ok((client, line))
}

/// What the clients have sent along with their request.
fn key() -> Id {
    Id::new("POST /charges", b"alice", "8e03978e-40d5-43e8-bc93-6894a57f9324")
}

/// All that makes it this charge and no other, so that the key isn't taken for one of another amount.
fn asked() -> Fingerprint {
    fingerprint(&[b"charge", b"alice", &AMOUNT.to_be_bytes()])
}

const AMOUNT: i64 = 30;
const RETENTION: Duration = Duration::from_secs(24 * 3600);
const TAKE: &str = "UPDATE charge_once.accounts SET balance = balance - $1 RETURNING balance";
const ACCOUNTS: &str = "DROP SCHEMA IF EXISTS charge_once CASCADE; CREATE SCHEMA charge_once;
    CREATE TABLE charge_once.accounts (owner text PRIMARY KEY, balance bigint NOT NULL CHECK (balance >= 0));
    INSERT INTO charge_once.accounts VALUES ('alice', 100)";
