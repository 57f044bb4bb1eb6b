use proxy_ebpf::origin::Origin;

use super::super::names::Names;
use super::*;

const SWITCH: &str = "passwd: files systemd\ngroup: files\n";

/// A host's settings.
struct Settings {
    directory: tempfile::TempDir,
    databases: Databases,
}

impl Settings {
    /// Those of a host whose files count as settled, or not.
    fn new(is_settled: fn(&FileState) -> bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut databases = Databases::in_directory(directory.path());
        databases.users.is_settled = is_settled;
        databases.groups.is_settled = is_settled;
        let settings = Self {
            directory,
            databases,
        };
        settings.write("nsswitch.conf", SWITCH);
        settings.write("passwd", "root:x:0:0::/:/bin/sh\n");
        settings.write("group", "root:x:0:\ndba:x:27:anna,ben\n");
        settings
    }

    /// Puts another file in place, as vipw(8) does.
    fn write(&self, name: &str, text: &str) {
        let new = self.directory.path().join("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, self.directory.path().join(name)).unwrap();
    }

    fn user(&self, uid: u32) -> Option<String> {
        self.databases.find(uid, &[]).0
    }
}

#[test]
fn names_are_those_of_the_files() {
    let settings = Settings::new(|_| true);
    let (user, groups) = settings.databases.find(0, &[27, 0, 4711]);
    assert_eq!(user.as_deref(), Some("root"));
    assert_eq!(
        groups,
        [Some("dba".to_owned()), Some("root".to_owned()), None]
    );
}

#[test]
fn a_file_that_was_replaced_or_written_to_is_read_anew() {
    let settings = Settings::new(|_| true);
    assert_eq!(settings.user(0).as_deref(), Some("root"));
    settings.write("passwd", "toor:x:0:0::/:/bin/sh\n");
    assert_eq!(settings.user(0).as_deref(), Some("toor"));
    let path = settings.directory.path().join("passwd");
    fs::write(&path, "administrator:x:0:0::/:/bin/sh\n").unwrap();
    assert_eq!(settings.user(0).as_deref(), Some("administrator"));
    fs::remove_file(path).unwrap();
    assert_eq!(settings.user(0), None);
}

#[test]
fn a_switch_that_asks_others_first_leaves_it_to_libc() {
    let settings = Settings::new(|_| true);
    assert!(settings.user(0).is_some());
    settings.write("nsswitch.conf", "passwd: sss files\ngroup: files\n");
    assert_eq!(settings.user(0), None);
    settings.write("nsswitch.conf", SWITCH);
    assert!(settings.user(0).is_some());
}

#[test]
fn a_file_that_was_changed_just_now_is_not_remembered() {
    let settings = Settings::new(FileState::has_settled);
    assert_eq!(settings.user(0), None);
    assert!(settings.databases.users.known.lock().unwrap().is_none());
}

#[test]
fn only_files_that_are_asked_first_and_finally_count() {
    let cases = [
        ("passwd: files", true),
        ("passwd:\tfiles systemd # local\n", true),
        ("# passwd: sss\npasswd: files\ngroup: sss", true),
        ("passwd: sss files", false),
        ("passwd: files [SUCCESS=merge] sss", false),
        ("passwd: compat", false),
        ("passwd: files\npasswd: sss", false),
        ("passwd: files\npasswd sss", false),
        ("passwd:", false),
        ("group: files", false),
        ("", false),
    ];
    for (switch, expected) in cases {
        assert_eq!(asks_files_first(switch, "passwd"), expected, "{switch}");
    }
}

#[test]
fn the_first_line_of_an_id_counts_and_one_that_needs_a_guess_leaves_all_to_libc() {
    let names = |text: &str| names_in(text, GROUP_FIELDS);
    let found = names("# local\na:x:1:\n\nb:x:1:c\nd::2:").unwrap();
    assert_eq!(found.get(&1).map(String::as_str), Some("a"));
    assert_eq!(found.get(&2).map(String::as_str), Some("d"));
    for odd in [
        "+:x:1:",
        "-a:x:1:",
        "+",
        ":x:1:",
        "a:x::",
        "a:x: 1:",
        "a:x:-1:",
        "a:x:4294967296:",
        "a:x:1",
        "a:x:1::",
        " a:x:1:",
        "a:x:1:\r",
        "a",
    ] {
        assert_eq!(names(&format!("b:x:2:\n{odd}\n")), None, "{odd:?}");
    }
    // libc has no user without a number for its group.
    let users = |text: &str| names_in(text, USER_FIELDS);
    assert!(users("a:x:1:1:::\n").is_some());
    for odd in ["a:x:1::::", "a:x:1:g:::", "a:x:1:4294967296:::"] {
        assert_eq!(users(odd), None, "{odd:?}");
    }
}

#[test]
fn a_file_that_is_too_large_is_left_to_libc() {
    let settings = Settings::new(|_| true);
    let line = "root:x:0:0::/:/bin/sh\n";
    let comment =
        |length: u64| format!("{line}#{}\n", "x".repeat(usize::try_from(length).unwrap()));
    let rest = MAX_FILE_BYTES - line.len() as u64 - 2;
    settings.write("passwd", &comment(rest));
    assert!(settings.user(0).is_some());
    settings.write("passwd", &comment(rest + 1));
    assert_eq!(settings.user(0), None);
}

#[test]
fn whoever_is_in_the_files_with_all_groups_needs_no_other_database() {
    let settings = Settings::new(|_| true);
    let names = |uid, groups| {
        let origin = Origin::new(1, uid, 27, 0, 0);
        Names::in_files(&settings.databases, &origin, Some(groups))
    };
    let root = names(0, &[0, 27]);
    assert!(root.is_whole);
    let groups = ["root".to_owned(), "dba".to_owned()];
    assert_eq!(root.groups.as_deref(), Some(groups.as_slice()));
    assert!(!names(0, &[0, 4711]).is_whole && !names(4711, &[]).is_whole);
}
