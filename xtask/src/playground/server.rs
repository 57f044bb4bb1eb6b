//! A PostgreSQL 15 server in a temporary folder, as a user who owns nothing else.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use nix::unistd::User;

use super::link::Site;
use super::service::{Service, die_with_parent};
use crate::process;

const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";
/// Debian's package makes this user; PostgreSQL refuses to run as root.
pub(super) const SYSTEM_USER: &str = "postgres";
/// Whom clients and relays log in as.
pub(super) const ROLE: &str = "demo";
pub(super) const DATABASE: &str = "postgres";
const PASSWORD: &str = "not-a-secret";
/// `initdb` lets in whoever comes from loopback; the other end of a link has to get in as well.
const NEIGHBOURS: &str = "host all all samenet scram-sha-256\n";
/// Twice as many as the largest workload has clients: pgbouncer keeps those of its own while others are measured.
const CONNECTIONS: u32 = 1_200;
/// A key like those of most servers, and a certificate that vouches for itself.
const NEW_CERTIFICATE: [&str; 11] = [
    "req",
    "-x509",
    "-nodes",
    "-newkey",
    "ec",
    "-pkeyopt",
    "ec_paramgen_curve:prime256v1",
    "-subj",
    "/CN=localhost",
    "-days",
    "2",
];

/// A running server; dropping it stops it.
pub(crate) struct Server {
    address: SocketAddrV4,
    _service: Service,
}

impl Server {
    /// Makes a database cluster below `folder` and serves it on a free port of the site's address.
    ///
    /// # Errors
    ///
    /// When PostgreSQL 15 is not installed or does not start.
    pub(super) fn start(site: &Site, folder: &Path) -> Result<Self> {
        let data = make_cluster(folder)?;
        make_certificate(&data)?;
        let address = SocketAddrV4::new(site.address(), free_port()?);
        let mut command = as_system_user(die_with_parent("INT"));
        command
            .arg(program("postgres"))
            .arg("-D")
            .arg(&data)
            .args(settings(address, &data));
        let mut service = Service::start(
            "PostgreSQL",
            site.place(command),
            folder.join("server.log"),
            Signal::SIGINT,
        )?;
        let mut question = is_ready(address);
        service.wait_until(|| question.status().is_ok_and(|status| status.success()))?;
        Ok(Self {
            address,
            _service: service,
        })
    }

    /// Returns where the server listens.
    pub(crate) fn address(&self) -> SocketAddrV4 {
        self.address
    }

    /// Returns what the server says it is.
    ///
    /// # Errors
    ///
    /// When its program cannot be started.
    pub(crate) fn version(&self) -> Result<String> {
        process::capture(Command::new(program("postgres")).arg("--version"))
    }
}

/// Returns a client program that dials an address as the demo role.
pub(super) fn client(name: &str, address: SocketAddrV4) -> Command {
    let mut command = Command::new(program(name));
    command
        .args(address_arguments(address))
        .args(["-U", ROLE])
        .env("PGPASSWORD", PASSWORD)
        .env("PGDATABASE", DATABASE)
        // A machine's own PostgreSQL settings must not decide what happens here.
        .env("PGSSLMODE", "disable")
        // Where TLS ends at pgusher there is none, and the other ways shall not do more than that one.
        .env("PGCHANNELBINDING", "disable")
        .env("PGAPPNAME", name)
        .env("PSQLRC", "/dev/null");
    command
}

/// Returns what the server itself keeps of the demo role's password: SCRAM's keys.
///
/// # Errors
///
/// When the server does not tell.
pub(super) fn stored_secret(address: SocketAddrV4) -> Result<String> {
    let mut psql = client("psql", address);
    let query = format!("select rolpassword from pg_authid where rolname = '{ROLE}'");
    psql.args(["--no-align", "--tuples-only", "-c", &query]);
    Ok(process::capture(&mut psql)?.trim().to_owned())
}

/// Returns the command that succeeds when something at that address speaks the protocol.
pub(super) fn is_ready(address: SocketAddrV4) -> Command {
    let mut command = Command::new(program("pg_isready"));
    command.arg("--quiet").args(address_arguments(address));
    command
}

/// Makes the data folder and returns it.
fn make_cluster(folder: &Path) -> Result<PathBuf> {
    let user = User::from_name(SYSTEM_USER)
        .context("cannot read the user table")?
        .with_context(|| format!("there is no user {SYSTEM_USER}: is postgresql-15 installed?"))?;
    let password_file = folder.join("password");
    fs::write(&password_file, PASSWORD).context("cannot write the password file")?;
    let data = folder.join("data");
    fs::create_dir(&data).context("cannot make the data folder")?;
    let (uid, gid) = (Some(user.uid.as_raw()), Some(user.gid.as_raw()));
    chown(&data, uid, gid).context("cannot give the data folder away")?;
    let mut initdb = as_system_user(Command::new("setpriv"));
    initdb
        .arg(program("initdb"))
        .args(["--no-locale", "--encoding=UTF8", "--no-sync"])
        .args(["--auth=scram-sha-256", "--username", ROLE])
        .arg(format!("--pwfile={}", password_file.display()))
        .arg("--pgdata")
        .arg(&data)
        .current_dir("/");
    process::capture(&mut initdb)?;
    let rules = data.join("pg_hba.conf");
    let mut text = fs::read_to_string(&rules).context("cannot read pg_hba.conf")?;
    text.push_str(NEIGHBOURS);
    fs::write(&rules, text).context("cannot write pg_hba.conf")?;
    Ok(data)
}

/// Puts `server.key` and `server.crt` where PostgreSQL looks for them.
fn make_certificate(data: &Path) -> Result<()> {
    let mut openssl = as_system_user(Command::new("setpriv"));
    openssl
        .arg("openssl")
        .args(NEW_CERTIFICATE)
        .arg("-keyout")
        .arg(data.join("server.key"))
        .arg("-out")
        .arg(data.join("server.crt"))
        .current_dir("/");
    process::capture(&mut openssl).map(drop)
}

/// Settings of a server whose data nobody will miss.
fn settings(address: SocketAddrV4, data: &Path) -> Vec<String> {
    let socket_folder = format!("unix_socket_directories={}", data.display());
    [
        format!("listen_addresses={}", address.ip()),
        format!("port={}", address.port()),
        socket_folder,
        "ssl=on".to_owned(),
        "fsync=off".to_owned(),
        format!("max_connections={CONNECTIONS}"),
        "shared_buffers=256MB".to_owned(),
    ]
    .into_iter()
    .flat_map(|setting| ["-c".to_owned(), setting])
    .collect()
}

/// Adds to a `setpriv` command what makes the program run as the server's user.
pub(super) fn as_system_user(mut setpriv: Command) -> Command {
    setpriv.args([
        "--reuid",
        SYSTEM_USER,
        "--regid",
        SYSTEM_USER,
        "--init-groups",
    ]);
    setpriv
}

/// Asks the kernel for a port that is free now, and in a namespace of our own is free anyway; if it is taken before the server starts, that fails and says so.
pub(super) fn free_port() -> Result<u16> {
    let address =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    Ok(address.context("no port is free")?.port())
}

fn address_arguments(address: SocketAddrV4) -> [String; 4] {
    [
        "-h".to_owned(),
        address.ip().to_string(),
        "-p".to_owned(),
        address.port().to_string(),
    ]
}

fn program(name: &str) -> PathBuf {
    Path::new(PROGRAMS).join(name)
}
