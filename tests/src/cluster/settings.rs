//! What makes a cluster a test cluster: its configuration, who may log in how, and the roles for it.

use std::path::Path;

use crate::certificates::CERTIFICATE_ROLE;

/// The password of every role that has one.
pub const PASSWORD: &str = "correct horse";

/// The role whose statements the server writes to its log, see [`crate::statement_log`].
pub const LOGGED_ROLE: &str = "app_logged";

/// The server's log below the cluster's directory, without the suffix that PostgreSQL adds for JSON.
pub(super) const LOG_NAME: &str = "statements";

/// One role a method; the superuser is trusted so that tests about other things need no password.
pub(super) const HOST_BASED_AUTHENTICATION: &str = "\
local   all          postgres                    trust
local   all          app_trust                   trust
local   all          daemon                      peer
host    all          postgres   127.0.0.0/8      trust
host    all          postgres   ::1/128          trust
host    all          postgres   10.77.0.0/16     trust
host    all          postgres   fd77::/16        trust
host    replication  postgres   127.0.0.0/8      trust
host    all          app_trust  127.0.0.0/8      trust
host    all          app_trust  ::1/128          trust
host    all          app_logged 127.0.0.0/8      trust
host    all          app_logged ::1/128          trust
host    all          app_md5    127.0.0.0/8      md5
host    all          app_scram  127.0.0.0/8      scram-sha-256
host    all          app_bound  127.0.0.0/8      scram-sha-256
host    all          app_plain  127.0.0.0/8      password
host    all          app_crowded 127.0.0.0/8     password
hostssl all          app_cert   127.0.0.0/8      cert
hostssl   all        app_tls    127.0.0.0/8      trust
hostnossl all        app_no_tls 127.0.0.0/8      trust
host    all          app_reject 127.0.0.0/8      reject
host    all          app_closed 127.0.0.0/8      trust
host    all          app_full   127.0.0.0/8      trust
host    all          no_such_md5,no_such_plain   127.0.0.0/8 md5
host    all          no_such_scram 127.0.0.0/8   scram-sha-256
";

/// Limits are raised for a thousand sessions; what only costs time (fsync, checkpoints) is off. Sessions that want
/// their statements normalised by the server turn pg_stat_statements on for themselves.
pub(super) fn configuration(directory: &Path, port: u16, tls: &str) -> String {
    let directory = directory.display();
    format!(
        "listen_addresses = '127.0.0.1,::1'
port = {port}
unix_socket_directories = '{directory}'
max_connections = 1200
wal_level = logical
max_wal_senders = 10
max_wal_size = '16GB'
fsync = off
full_page_writes = off
dynamic_shared_memory_type = mmap
ssl = {tls}
ssl_ca_file = '{directory}/ca.crt'
ssl_cert_file = '{directory}/server.crt'
ssl_key_file = '{directory}/server.key'
lc_messages = 'C'
log_connections = on
log_disconnections = on
logging_collector = on
log_destination = 'jsonlog'
log_directory = '{directory}'
log_filename = '{LOG_NAME}'
log_rotation_size = 0
log_rotation_age = 0
shared_preload_libraries = 'pg_stat_statements'
pg_stat_statements.track = none
"
    )
}

/// SQL that creates the roles named in [`HOST_BASED_AUTHENTICATION`].
pub(super) fn roles() -> String {
    format!(
        "create role app_trust login;
         create role daemon login;
         create role {CERTIFICATE_ROLE} login;
         create role app_reject login;
         create role {LOGGED_ROLE} login;
         alter role {LOGGED_ROLE} set log_statement = 'all';
         create role app_tls login;
         create role app_no_tls login;
         set password_encryption = 'md5'; create role app_md5 login password '{PASSWORD}';
         set password_encryption = 'scram-sha-256';
         create role app_scram login password '{PASSWORD}';
         create role app_bound login password '{PASSWORD}';
         create role app_crowded login password '{PASSWORD}' connection limit 0;
         create role app_plain login password '{PASSWORD}'"
    )
}
