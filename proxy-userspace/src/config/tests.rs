use proxy_ebpf::verdict::Verdict;

use super::*;

fn from_toml(text: &str) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pgusher.toml");
    fs::write(&path, text).unwrap();
    Config::resolve(Settings::default(), Some(&path))
}

#[test]
fn an_empty_file_gives_the_documented_defaults() {
    let config = from_toml("").unwrap();
    assert_eq!(config.ports, [5432]);
    assert_eq!(config.limits.startup_timeout, Duration::from_secs(60));
    assert!(!config.identity.exe_sha256);
    assert_eq!(config.identity.pod_logs, Path::new("/var/log/pods"));
    assert_eq!(config.audit.sink, SinkKind::Stdout);
    assert_eq!(config.audit.overflow, OverflowPolicy::Block);
}

#[test]
fn flags_win_over_the_file_setting_by_setting() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pgusher.toml");
    fs::write(&path, "port = [6432]\nmax_sessions = 5\n").unwrap();
    let flags = Settings {
        port: vec![7432, 7432, 5432],
        ..Settings::default()
    };
    let config = Config::resolve(flags, Some(&path)).unwrap();
    assert_eq!(config.ports, [5432, 7432]);
    assert_eq!(config.limits.max_sessions.get(), 5);
}

#[test]
fn mistakes_are_refused_with_their_place() {
    let cases = [
        ("port = [5432]\nmax_sesions = 5\n", "line 2, column 1"),
        ("startup_timeout = 60\n", "line 1, column 19"),
        ("audit_sink = \"syslog\"\n", "line 1, column 14"),
        ("audit_sink = \"file:relative\"\n", "absolute"),
        ("port = [0]\n", "`port`"),
        ("port = [5432]\nlisten_port = 5432\n", "`port`"),
        ("max_sessions = 0\n", "`max_sessions`"),
        ("drain_timeout = \"0s\"\n", "`drain_timeout`"),
        ("drain_timeout = \"-3s\"\n", "line 1, column 17"),
        ("audit = \"everything\"\n", "line 1, column 9"),
        ("unix_sockets = \"on\"\n", "line 1, column 16"),
        ("fast_path = \"on\"\n", "line 1, column 13"),
        (
            "unix_socket_user = \"no such user\"\n",
            "`unix_socket_user`",
        ),
        ("audit_text_limit = 0\n", "`audit_text_limit`"),
        (
            "[identity]\npod_logs = \"pods\"\n",
            "`identity.pod_logs`: `pods` is not an absolute path",
        ),
        ("[identity]\nexe_md5 = true\n", "line 2, column 1"),
        ("audit_parameter_limit = 70000\n", "`audit_parameter_limit`"),
        ("stall_timeout = \"900ms\"\n", "`stall_timeout`"),
        ("when_down = \"ajar\"\n", "line 1, column 13"),
    ];
    for (text, place) in cases {
        let message = from_toml(text).unwrap_err().to_string();
        assert!(message.contains(place), "{text:?} gave {message:?}");
    }
}

#[test]
fn what_goes_around_is_refused_where_policies_are_enforced_unless_the_operator_says_otherwise() {
    let enforce = "policy = \"/etc/pgusher/policies\"\npolicy_mode = \"enforce\"\n";
    let cases = [
        ("", Refusals::ALWAYS),
        (
            "unknown_netns = \"refuse\"\n",
            Refusals::ALWAYS.and(Verdict::OtherNetns),
        ),
        (
            "when_down = \"closed\"\n",
            Refusals::ALWAYS.and(Verdict::Unserved),
        ),
        (
            enforce,
            Refusals::ENFORCING
                .and(Verdict::OtherNetns)
                .and(Verdict::Unserved),
        ),
        (
            &format!("{enforce}unknown_netns = \"pass\"\n"),
            Refusals::ENFORCING.and(Verdict::Unserved),
        ),
        (
            &format!("{enforce}when_down = \"open\"\n"),
            Refusals::ENFORCING.and(Verdict::OtherNetns),
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(from_toml(text).unwrap().refusals, expected, "{text}");
    }
}

#[test]
fn limits_hold_on_both_sides() {
    let cases = [
        ("audit_text_limit", 1, true),
        ("audit_text_limit", 1024 * 1024, true),
        ("audit_text_limit", 1024 * 1024 + 1, false),
        ("audit_parameter_limit", 1, true),
        ("audit_parameter_limit", 64 * 1024, true),
        ("audit_parameter_limit", 64 * 1024 + 1, false),
        ("max_namespaces", 0, true),
        ("max_namespaces", 4095, true),
        ("max_namespaces", 4096, false),
    ];
    for (setting, value, is_fine) in cases {
        let resolved = from_toml(&format!("{setting} = {value}\n"));
        assert_eq!(resolved.is_ok(), is_fine, "{setting} = {value}");
    }
}

fn rule_for(config: &Config, destination: &str) -> (String, AuditScope) {
    let rule = config.routes.find(&destination.parse().unwrap());
    (rule.name.clone(), rule.audit)
}

#[test]
fn the_first_route_that_matches_decides_and_the_rest_comes_from_the_top_level() {
    let config = from_toml(
        r#"
        audit_redaction = "literals-removed"
        audit_overflow = "drop"

        [[route]]
        name = "ledger"
        destination = ["10.0.0.5", "10.1.0.0/16"]
        port = [5432, 5433]
        audit = "statements"
        audit_overflow = "block"

        [[route]]
        destination = ["10.1.0.0/16", "fd00::/8"]
        audit = "statements"
        audit_redaction = "full"
        audit_parameters = true

        [[route]]
        port = [6432]
        audit_redaction = "fingerprint-only"
        "#,
    )
    .unwrap();
    let cases = [
        ("10.0.0.5:5432", "ledger"),
        ("[::ffff:10.0.0.5]:5433", "ledger"),
        ("10.1.255.1:5433", "ledger"),
        ("10.1.255.1:5434", "route 2"),
        ("[fd00::1]:5432", "route 2"),
        ("10.0.0.6:5432", "default"),
        ("10.0.0.6:6432", "route 3"),
        ("[::1]:6432", "route 3"),
        ("10.2.0.1:5432", "default"),
    ];
    for (destination, name) in cases {
        assert_eq!(rule_for(&config, destination).0, name, "{destination}");
    }
    let (_, ledger) = rule_for(&config, "10.0.0.5:5432");
    let expected = AuditScope {
        level: AuditLevel::Statements,
        redaction: Redaction::LiteralsRemoved,
        parameters: false,
        overflow: OverflowPolicy::Block,
    };
    assert_eq!(ledger, expected);
    let (_, second) = rule_for(&config, "[fd00::1]:1");
    assert_eq!(second.overflow, OverflowPolicy::Drop);
    assert!(second.parameters);
    let (_, default) = rule_for(&config, "127.0.0.1:1");
    assert_eq!(default, config.audit.scope);
    assert_eq!(default.level, AuditLevel::Sessions);
}

#[test]
fn routes_with_mistakes_are_refused_with_their_place_and_the_reason() {
    let cases = [
        (
            "[[route]]\nname = \"a\"\nport = [0]\n",
            "route `a`, setting `port`",
        ),
        ("[[route]]\n[[route]]\nport = [0]\n", "route `route 2`"),
        (
            "[[route]]\ndestination = [\"db.example\"]\n",
            "line 2, column 15",
        ),
        (
            "[[route]]\ndestination = [\"10.0.0.0/33\"]\n",
            "no network such as",
        ),
        ("[[route]]\naudits = \"statements\"\n", "line 2, column 1"),
        ("[[route]]\nport = [70000]\n", "line 2, column 9"),
        (
            "[[route]]\nname = \"b\"\naudit_redaction = \"fingerprint-only\"\naudit_parameters = true\n",
            "route `b`, setting `audit_parameters`: parameters are literals",
        ),
        (
            "audit_parameters = true\n[[route]]\naudit_redaction = \"literals-removed\"\n",
            "route `route 1`, setting `audit_parameters`",
        ),
        (
            "audit_parameters = true\naudit_redaction = \"literals-removed\"\n",
            "setting `audit_parameters`: parameters are literals",
        ),
    ];
    for (text, place) in cases {
        let message = from_toml(text).unwrap_err().to_string();
        assert!(message.contains(place), "{text:?} gave {message:?}");
    }
}
