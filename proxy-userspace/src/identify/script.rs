//! What an interpreter runs: the script's path, from the command line of the process.
//!
//! Command line and current directory belong to the process, which may change both at any time: this is for people
//! and for coarse rules, and never better than `late`. What it can be made to say is in docs/threat-model.md.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `PATH_MAX` of include/uapi/linux/limits.h; a longer path could not have been opened.
const MAX_PATH_BYTES: usize = 4096;

/// An interpreter and the file it was told to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Script {
    /// The interpreter's name: the last part of the executable's path.
    pub interpreter: String,
    /// The script, absolute where the current directory could be read.
    pub path: String,
}

/// How an interpreter's command line is read.
struct Interpreter {
    /// The name of the executable, to which a version number may be attached.
    name: &'static str,
    /// Options that take the next argument as their value.
    with_value: &'static [&'static str],
    /// Options behind which there is a program text or a module, not a script.
    without_script: &'static [&'static str],
    /// The option whose value is the script; without it the first argument that is no option is.
    script_option: Option<&'static str>,
}

const SHELL_OPTIONS: [&str; 5] = ["-o", "+o", "-O", "+O", "--rcfile"];

const INTERPRETERS: [Interpreter; 10] = [
    Interpreter {
        name: "python",
        with_value: &["-W", "-X", "--check-hash-based-pycs"],
        without_script: &["-c", "-m", "-"],
        script_option: None,
    },
    Interpreter {
        name: "perl",
        with_value: &["-I", "-M"],
        without_script: &["-e", "-E", "-"],
        script_option: None,
    },
    Interpreter {
        name: "ruby",
        with_value: &["-r", "-I", "-C", "-E"],
        without_script: &["-e", "-"],
        script_option: None,
    },
    Interpreter {
        name: "node",
        with_value: &[
            "-r",
            "--require",
            "--import",
            "--loader",
            "-C",
            "--conditions",
        ],
        without_script: &["-e", "--eval", "-p", "--print", "-pe", "-"],
        script_option: None,
    },
    Interpreter {
        name: "php",
        with_value: &["-c", "-d", "-z"],
        without_script: &["-r", "-B", "-R", "-S", "-a", "-"],
        script_option: None,
    },
    shell("bash"),
    shell("dash"),
    shell("ksh"),
    shell("sh"),
    Interpreter {
        name: "java",
        with_value: &[
            "-cp",
            "-classpath",
            "--class-path",
            "-p",
            "--module-path",
            "--add-modules",
            "--add-opens",
            "--add-exports",
            "--add-reads",
        ],
        without_script: &["-m", "--module"],
        script_option: Some("-jar"),
    },
];

const fn shell(name: &'static str) -> Interpreter {
    Interpreter {
        name,
        with_value: &SHELL_OPTIONS,
        without_script: &["-c", "-s", "-"],
        script_option: None,
    }
}

/// Finds the script of the process that runs `exe` with these arguments; its directory is asked for where it matters.
pub(super) fn script(
    exe: &str,
    arguments: &[String],
    cwd: impl FnOnce() -> Option<PathBuf>,
) -> Option<Script> {
    let name = exe.rsplit('/').next()?;
    let interpreter = INTERPRETERS.iter().find(|known| known.is_called(name))?;
    let given = interpreter.find(arguments.get(1..)?)?;
    let is_absolute = given.starts_with('/');
    let path = match Some(cwd).filter(|_| !is_absolute).and_then(|cwd| cwd()) {
        Some(cwd) => {
            let below = given.trim_start_matches("./");
            format!("{}/{below}", cwd.to_str()?.trim_end_matches('/'))
        }
        None => given.clone(),
    };
    (path.len() < MAX_PATH_BYTES).then(|| Script {
        interpreter: name.to_owned(),
        path,
    })
}

impl Interpreter {
    /// `python`, `python3`, `python3.11`, `perl5.36.0`; not `pythonista`.
    fn is_called(&self, name: &str) -> bool {
        name.strip_prefix(self.name).is_some_and(|version| {
            version
                .chars()
                .all(|character| character.is_ascii_digit() || character == '.')
        })
    }

    fn find<'line>(&self, arguments: &'line [String]) -> Option<&'line String> {
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let option = argument.as_str();
            if self.script_option == Some(option) {
                return rest.next();
            }
            if option == "--" {
                return rest.next().filter(|_| self.script_option.is_none());
            }
            if self.holds_program(option) {
                return None;
            }
            if self.takes_next(option) {
                rest.next();
            } else if !option.starts_with(['-', '+']) {
                // A class, for java, unless it is a source file.
                let is_script = self.script_option.is_none() || option.ends_with(".java");
                return is_script
                    .then_some(argument)
                    .filter(|path| !path.is_empty());
            }
        }
        None
    }

    /// Whether a program text or a module follows: `-c`, also behind other letters (`bash -lc`), or with its value
    /// attached (`perl -eprint`).
    fn holds_program(&self, option: &str) -> bool {
        let mut known = self.without_script.iter();
        known.any(|known| {
            *known == option
                || is_letter(known) && option.starts_with(known)
                || self.ends_cluster(option, known)
        })
    }

    /// Whether the next argument is the value of this option: `-o pipefail`, `-euo pipefail`.
    fn takes_next(&self, option: &str) -> bool {
        let mut known = self.with_value.iter();
        known.any(|known| *known == option || self.ends_cluster(option, known))
    }

    /// Whether `option` is several letters after one dash, the last of them that of `known`. An option with its value
    /// attached (`-Wonce`) is no such cluster, and neither is a word (`java -jar`).
    fn ends_cluster(&self, option: &str, known: &str) -> bool {
        let mut with_value = self.with_value.iter();
        let has_value = with_value.any(|known| is_letter(known) && option.starts_with(known));
        self.script_option.is_none()
            && is_letter(known)
            && option.starts_with('-')
            && !option.starts_with("--")
            && !has_value
            && known
                .get(1..)
                .is_some_and(|letter| option.ends_with(letter))
    }
}

/// Whether this is an option of one letter.
fn is_letter(option: &str) -> bool {
    option.len() == 2 && option.starts_with(['-', '+']) && option != "--"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path_of(exe: &str, line: &str) -> Option<String> {
        let arguments: Vec<String> = line.split(' ').map(str::to_owned).collect();
        script(exe, &arguments, || Some(PathBuf::from("/srv/app"))).map(|script| script.path)
    }

    fn check(exe: &str, cases: &[(&str, Option<&str>)]) {
        for (line, expected) in cases {
            assert_eq!(path_of(exe, line).as_deref(), *expected, "{line}");
        }
    }

    #[test]
    fn scripts_of_python_are_told_from_modules_and_program_texts() {
        check(
            "/usr/bin/python3.11",
            &[
                ("python3 -u /opt/job.py --fast", Some("/opt/job.py")),
                ("python3 -X dev -Wonce job.py", Some("/srv/app/job.py")),
                ("python3 -c print() job.py", None),
                ("python3 -Ic print() job.py", None),
                ("python3 -m http.server", None),
                ("python3 -", None),
                ("python3", None),
            ],
        );
    }

    #[test]
    fn scripts_of_shells_stand_behind_options_with_values() {
        check(
            "/usr/bin/bash",
            &[
                (
                    "/bin/bash -e -o pipefail /etc/cron.daily/dump",
                    Some("/etc/cron.daily/dump"),
                ),
                ("bash -euo pipefail a.sh", Some("/srv/app/a.sh")),
                ("bash -lc psql a", None),
                ("sh -- a.sh", Some("/srv/app/a.sh")),
                ("sh", None),
            ],
        );
    }

    #[test]
    fn java_runs_jar_files_and_sources_and_other_classes_are_no_scripts() {
        check(
            "/usr/lib/jvm/java-17/bin/java",
            &[
                ("java -Xmx1g -cp a.jar -jar b.jar c", Some("/srv/app/b.jar")),
                ("java -cp a.jar org.example.Main", None),
                ("java -cp a.jar Main.java", Some("/srv/app/Main.java")),
            ],
        );
    }

    #[test]
    fn other_interpreters_have_their_own_options_and_other_programs_no_script() {
        let cases = [
            (
                "/usr/bin/perl",
                "perl -w ./report.pl",
                Some("/srv/app/report.pl"),
            ),
            (
                "/usr/bin/perl",
                "perl -MData::Template a.pl",
                Some("/srv/app/a.pl"),
            ),
            ("/usr/bin/perl", "perl -eprint x", None),
            (
                "/usr/bin/ruby3.1",
                "ruby -r json a.rb",
                Some("/srv/app/a.rb"),
            ),
            (
                "/usr/bin/node",
                "node --require x.js --inspect /srv/a.js",
                Some("/srv/a.js"),
            ),
            ("/usr/bin/node", "node -e 1 a.js", None),
            (
                "/usr/bin/php8.2",
                "php -d a=b x.php",
                Some("/srv/app/x.php"),
            ),
            ("/usr/lib/postgresql/15/bin/psql", "python3 a.py", None),
            ("/usr/bin/shred", "shred a", None),
        ];
        for (exe, line, expected) in cases {
            check(exe, &[(line, expected)]);
        }
    }

    #[test]
    fn without_a_current_directory_the_path_stays_as_it_was_given() {
        let arguments = ["python3".to_owned(), "a.py".to_owned()];
        let found = script("/usr/bin/python3", &arguments, || None).unwrap();
        assert_eq!(
            (found.interpreter.as_str(), found.path.as_str()),
            ("python3", "a.py")
        );
    }

    #[test]
    fn a_path_that_could_not_be_opened_is_none() {
        let of = |length: usize| {
            let arguments = ["sh".to_owned(), format!("/{}", "x".repeat(length - 1))];
            script("/bin/sh", &arguments, || None).is_some()
        };
        assert!(of(MAX_PATH_BYTES - 1));
        assert!(!of(MAX_PATH_BYTES));
    }
}
