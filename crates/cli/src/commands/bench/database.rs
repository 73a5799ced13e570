//! A database for one benchmark: SQLite in the benchmark's directory, or one that is made on the
//! PostgreSQL server that was named, and dropped in the end. What is there already is never touched.

use super::proc;
use crate::error::{CliError, local};
use aetherium_model::{Code, Fault};
use sqlx::{
    AnyConnection, AssertSqlSafe, Connection as _, Row as _,
    any::{AnyRow, install_default_drivers},
};
use std::{path::Path, time::Duration};

/// A benchmark's own database.
pub(super) struct Database {
    url: String,
    /// For questions that the store does not answer.
    connection: AnyConnection,
    server: Option<Server>,
}

/// The PostgreSQL server on which it was made.
struct Server {
    url: String,
    name: String,
    /// The server's first process, where it runs on this machine.
    pid: Option<u32>,
}

impl Database {
    /// Makes the database, without a schema.
    pub(super) async fn make(named: Option<&str>, dir: &Path) -> Result<Self, CliError> {
        install_default_drivers();
        let Some(given) = named else {
            let path = dir.join("bench.db");
            std::fs::File::create(&path).map_err(|error| local(path.display(), error))?;
            let url = format!("sqlite://{}", path.display());
            let connection = connect(&url).await?;
            return Ok(Self { url, connection, server: None });
        };
        let name = format!("aetherium_bench_{}", std::process::id());
        let url = with_name(given, &name)?;
        let mut server = connect(given).await?;
        run(&mut server, format!("CREATE DATABASE {name}")).await?;
        let connection = connect(&url).await?;
        let pid = first_process(&mut server).await?;
        let server = Some(Server { url: given.to_owned(), name, pid });
        Ok(Self { url, connection, server })
    }

    /// Its address.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Another connection to it.
    pub(super) async fn connect(&self) -> Result<AnyConnection, CliError> {
        connect(&self.url).await
    }

    /// Whether it is PostgreSQL's.
    pub(super) const fn is_postgres(&self) -> bool {
        self.server.is_some()
    }

    /// What PostgreSQL has used of this machine's processors; nothing where it runs elsewhere, or in
    /// this process.
    pub(super) fn cpu(&self) -> Option<Duration> {
        self.server.as_ref()?.pid.map(proc::cpu_of_family)
    }

    /// The rows that answer a question.
    pub(super) async fn ask(&mut self, question: &'static str) -> Result<Vec<AnyRow>, CliError> {
        let rows = sqlx::query(question).fetch_all(&mut self.connection).await;
        Ok(rows.map_err(|error| local("the benchmark's database", error))?)
    }

    /// The numbers in the first column of the rows that answer a question.
    pub(super) async fn numbers(&mut self, question: &'static str) -> Result<Vec<f64>, CliError> {
        let rows = self.ask(question).await?;
        let number = |row: &AnyRow| row.try_get::<i64, _>(0).map(|number| number as f64);
        let numbers: Result<_, _> = rows.iter().map(number).collect();
        Ok(numbers.map_err(Fault::internal)?)
    }

    /// Removes it from its server, whoever still uses it.
    pub(super) async fn remove(self) -> Result<(), CliError> {
        // It is given up; how its connection ends does not matter.
        let _ = self.connection.close().await;
        let Some(Server { url, name, .. }) = self.server else { return Ok(()) };
        run(&mut connect(&url).await?, format!("DROP DATABASE {name} WITH (FORCE)")).await
    }
}

async fn connect(url: &str) -> Result<AnyConnection, CliError> {
    let connected = AnyConnection::connect(url).await;
    Ok(connected.map_err(|error| local("cannot connect to the database", error))?)
}

async fn run(connection: &mut AnyConnection, statement: String) -> Result<(), CliError> {
    // Its only variable part is a name of our own making.
    let ran = sqlx::raw_sql(AssertSqlSafe(statement.clone())).execute(connection).await;
    ran.map(drop).map_err(|error| local(statement, error).into())
}

/// The process that has started the one that answers us.
async fn first_process(connection: &mut AnyConnection) -> Result<Option<u32>, CliError> {
    let row = sqlx::query("SELECT pg_backend_pid()::bigint").fetch_one(connection).await;
    let row = row.map_err(|error| local("the PostgreSQL server", error))?;
    let pid: i64 = row.try_get(0).map_err(Fault::internal)?;
    // With a server elsewhere the number means nothing here.
    let here = u32::try_from(pid).ok().filter(|pid| proc::is_named(*pid, "postgres"));
    Ok(here.and_then(proc::parent_of).filter(|pid| proc::is_named(*pid, "postgres")))
}

/// The same server's address, with another database.
fn with_name(url: &str, name: &str) -> Result<String, CliError> {
    let (address, options) = url.split_once('?').map_or((url, None), |(a, b)| (a, Some(b)));
    let server = address
        .split_once("://")
        .filter(|(scheme, _)| matches!(*scheme, "postgres" | "postgresql"))
        .map(|(scheme, rest)| (scheme, rest.split_once('/').map_or(rest, |(server, _)| server)));
    let Some((scheme, server)) = server else {
        let fault = Fault::new(Code::InvalidRequest, "--database names no PostgreSQL server");
        return Err(fault.remedy("give postgres://user@host/name, or nothing for SQLite").into());
    };
    let options = options.map(|options| format!("?{options}")).unwrap_or_default();
    Ok(format!("{scheme}://{server}/{name}{options}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_name_of_the_database_is_another() {
        let other = |url| with_name(url, "x").ok();
        assert_eq!(other("postgres://u:p@h:1/a?b=c").unwrap(), "postgres://u:p@h:1/x?b=c");
        assert_eq!(other("postgresql://u@%2Ftmp%2Fd:1").unwrap(), "postgresql://u@%2Ftmp%2Fd:1/x");
        assert_eq!(other("sqlite:///a"), None);
        assert_eq!(other("h/a"), None);
    }
}
