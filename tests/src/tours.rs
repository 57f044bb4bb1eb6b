//! The tours: for each driver a program of `clients/` that makes it use whatever of the protocol it can use.
//!
//! All are told where to connect by the PG* environment of libpq, and print what they found as facts that are the same
//! for every server and every path to it. Where a driver comes in several versions, the server's version decides.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Result, ensure};

use crate::cgroup::TestCgroup;
use crate::cluster::{Cluster, LOGGED_ROLE, Version};
use crate::process::{Finished, run};
use crate::programs;

/// A driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// psql of the server's version.
    Psql,
    /// libpq of the server's version, called from C.
    Libpq,
    /// psycopg 3.
    Psycopg,
    /// asyncpg.
    Asyncpg,
    /// node-postgres.
    NodePg,
    /// pgjdbc.
    Jdbc,
    /// tokio-postgres.
    TokioPostgres,
    /// Go's lib/pq.
    LibPq,
    /// Go's pgx.
    Pgx,
}

/// Where a client runs.
#[derive(Clone, Copy, Debug)]
pub enum Ground<'stage> {
    /// In a cgroup that pgusher intercepts.
    Intercepted(&'stage TestCgroup),
    /// Outside any.
    Direct,
}

impl Ground<'_> {
    /// A command for `program` there.
    ///
    /// # Errors
    /// When the cgroup cannot be entered.
    pub fn command(self, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        match self {
            Self::Intercepted(cgroup) => cgroup.command(program),
            Self::Direct => Ok(Command::new(program)),
        }
    }
}

/// Whether a client asks for TLS.
#[derive(Clone, Copy, Debug)]
pub enum Encryption<'stage> {
    /// It does not.
    Off,
    /// It does, and checks the server's certificate and its name against the authorities in this file.
    VerifyFull(&'stage Path),
}

/// A tour that is over.
#[derive(Debug)]
pub struct Taken {
    /// What the client called itself: its sessions' `application_name`.
    pub application: String,
    /// What it printed, on standard output and standard error.
    pub facts: String,
}

/// What a driver's tour needs on disk, made once for a server.
#[derive(Debug)]
pub struct Tour {
    driver: Driver,
    cluster: &'static Cluster,
    /// As the client sees it.
    inside: PathBuf,
    outside: PathBuf,
}

impl Tour {
    /// Prepares the tour of `driver` on `cluster`.
    ///
    /// # Errors
    /// When something is missing; the message says what to install.
    pub fn prepare(driver: Driver, cluster: &'static Cluster) -> Result<Self> {
        let scratch = cluster.scratch()?;
        let tour = Self {
            driver,
            cluster,
            inside: if tour_runs_in_root(driver) {
                scratch.inside
            } else {
                scratch.outside.clone()
            },
            outside: scratch.outside,
        };
        match driver {
            Driver::Psql => {
                tour.bring(&programs::source("tour.psql"))?;
                tour.bring(&programs::source("tour_18.psql"))?;
                fs::write(tour.outside.join("object"), "a large object\n")?;
            }
            Driver::Libpq => tour.bring(&programs::compiled("tour_libpq")?)?,
            _ => {}
        }
        Ok(tour)
    }

    /// Copies a file to where the client sees it, readable and executable for everybody.
    fn bring(&self, file: &Path) -> Result<()> {
        let copy = self.outside.join(file.file_name().unwrap_or_default());
        programs::copy_program(file, &copy)?;
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
        Ok(())
    }

    /// Runs the tour to its end.
    ///
    /// # Errors
    /// When the client fails.
    pub fn take(&self, ground: Ground<'_>, encryption: Encryption<'_>) -> Result<Taken> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let application = format!("tour-{:?}-{number}", self.driver);
        let mut command = self.command(ground)?;
        self.cluster.point_at(&mut command);
        command
            .env("PGUSER", LOGGED_ROLE)
            .env("PGAPPNAME", &application);
        if let Encryption::VerifyFull(authorities) = encryption {
            self.bring(authorities)?;
            let name = authorities.file_name().unwrap_or_default();
            command
                .env("PGSSLMODE", "verify-full")
                .env("PGSSLROOTCERT", self.inside.join(name));
        }
        let finished = run(&mut command)?;
        finished.success()?;
        let Finished { stdout, stderr, .. } = finished;
        ensure!(!stdout.is_empty(), "no facts, but {stderr}");
        Ok(Taken {
            application,
            facts: stdout + &stderr,
        })
    }

    fn command(&self, ground: Ground<'_>) -> Result<Command> {
        match self.driver {
            Driver::Psql => self.psql(ground),
            Driver::Libpq => {
                let mut command = ground.command("chroot")?;
                self.cluster
                    .enter_root(&mut command, &self.inside.join("tour_libpq"));
                Ok(command)
            }
            Driver::Psycopg => programs::python(ground, "tour_psycopg", "psycopg"),
            Driver::Asyncpg => programs::python(ground, "tour_asyncpg", "asyncpg"),
            Driver::NodePg => programs::node(ground, "tour_node_pg"),
            Driver::Jdbc => programs::java(ground, "TourJdbc"),
            Driver::TokioPostgres => ground.command(programs::own("tour_tokio_postgres")?),
            Driver::LibPq => ground.command(programs::compiled_go("tour_lib_pq")?),
            Driver::Pgx => ground.command(programs::compiled_go("tour_pgx")?),
        }
    }

    fn psql(&self, ground: Ground<'_>) -> Result<Command> {
        let file = |name: &str| self.inside.join(name);
        let variable = |name: &str, value: &str| {
            let mut setting = OsString::from(format!("--set={name}="));
            setting.push(file(value));
            setting
        };
        let mut command = ground.command("chroot")?;
        self.cluster
            .enter_root(&mut command, &self.cluster.version_program("psql"));
        command
            .arg("--no-psqlrc")
            .arg(variable("object", "object"))
            .arg(variable("copy", "copy"))
            .arg("-f")
            .arg(file("tour.psql"));
        if self.cluster.version == Version::V18 {
            // Protocol 3.2, which libpq does not ask for by itself.
            command
                .env("PGMAXPROTOCOLVERSION", "latest")
                .arg("-f")
                .arg(file("tour_18.psql"));
        }
        Ok(command)
    }
}

/// Whether the client is one of the server's version and runs in that version's root.
fn tour_runs_in_root(driver: Driver) -> bool {
    matches!(driver, Driver::Psql | Driver::Libpq)
}
