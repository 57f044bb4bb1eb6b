//! Policy files: reading them, and telling where in them a mistake is.

use std::fmt;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;

use cedar_policy::{Policy, PolicyId, PolicySet};
use miette::Diagnostic;
use sha2::{Digest as _, Sha256};

/// The most that a policy file may hold; beyond it, it is something else.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;
/// The most files a policy directory may hold.
const MAX_FILES: usize = 1000;
/// What policy files are called in a directory.
const EXTENSION: &str = "cedar";

/// A mistake in a policy and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The file, or what stands for one.
    pub file: String,
    /// Line and column, from 1.
    pub place: Option<(usize, usize)>,
    /// The policy's id, where it is known.
    pub policy: Option<String>,
    /// What is wrong.
    pub reason: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.file)?;
        if let Some((line, column)) = self.place {
            write!(out, ":{line}:{column}")?;
        }
        if let Some(policy) = &self.policy {
            write!(out, ": policy \"{policy}\"")?;
        }
        write!(out, ": {}", self.reason)
    }
}

/// Why there is no policy.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// A file or directory cannot be read.
    #[error("cannot read policy {path}: {reason}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The text is not what it should be.
    #[error("{}", lines(.0))]
    Mistakes(Vec<Mistake>),
}

fn lines(mistakes: &[Mistake]) -> String {
    let lines: Vec<_> = mistakes.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

/// One file's text and the name that mistakes are told under.
#[derive(Clone, Debug)]
pub struct Source {
    name: String,
    text: String,
}

impl Source {
    /// A text that is no file.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            text: text.into(),
        }
    }

    /// Reads a file, or every `*.cedar` of a directory in the order of their names.
    ///
    /// # Errors
    /// [`PolicyError::Read`]
    pub fn read(path: &Path) -> Result<Vec<Self>, PolicyError> {
        let failed = |path: &Path, error: &dyn fmt::Display| PolicyError::Read {
            path: path.to_path_buf(),
            reason: error.to_string(),
        };
        if !path.is_dir() {
            return Ok(vec![read_file(path)?]);
        }
        let mut files = Vec::new();
        for entry in fs::read_dir(path).map_err(|error| failed(path, &error))? {
            let file = entry.map_err(|error| failed(path, &error))?.path();
            let is_hidden = file
                .file_name()
                .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
            if file.extension().is_some_and(|found| found == EXTENSION) && !is_hidden {
                files.push(file);
            }
            if files.len() > MAX_FILES {
                return Err(failed(path, &format_args!("more than {MAX_FILES} files")));
            }
        }
        if files.is_empty() {
            return Err(failed(
                path,
                &"the directory has no file whose name ends in .cedar",
            ));
        }
        files.sort();
        files.iter().map(|file| read_file(file)).collect()
    }

    /// Its policies, each under its `@id`, or else the file's name and which it is of the file.
    ///
    /// # Errors
    /// [`Mistake`]s
    pub(super) fn parse(&self) -> Result<Vec<Policy>, Vec<Mistake>> {
        let set = PolicySet::from_str(&self.text).map_err(|errors| {
            let errors = errors.iter().map(|error| self.mistake(error, None));
            errors.collect::<Vec<_>>()
        })?;
        if let Some(template) = set.templates().next() {
            return Err(vec![Mistake {
                file: self.name.clone(),
                place: None,
                policy: Some(template.annotation("id").unwrap_or_default().to_owned()),
                reason:
                    "is a template (it has ?principal or ?resource), which pgusher does not link"
                        .to_owned(),
            }]);
        }
        let mut policies: Vec<_> = set.policies().cloned().collect();
        policies.sort_by_key(|policy| position(policy.id()));
        Ok(policies
            .into_iter()
            .enumerate()
            .map(|(index, policy)| {
                let id = match policy.annotation("id").filter(|id| !id.is_empty()) {
                    Some(id) => id.to_owned(),
                    None => format!("{}#{}", self.short_name(), index + 1),
                };
                policy.new_id(PolicyId::new(id))
            })
            .collect())
    }

    /// A mistake as Cedar tells it, in this file.
    pub(super) fn mistake(&self, error: &dyn Diagnostic, policy: Option<&PolicyId>) -> Mistake {
        let label = error.labels().and_then(|mut labels| labels.next());
        let help = error.help().map(|help| format!(" ({help})"));
        Mistake {
            file: self.name.clone(),
            place: label.map(|label| place(&self.text, label.offset())),
            policy: policy.map(ToString::to_string),
            reason: format!("{error}{}", help.unwrap_or_default()),
        }
    }

    fn short_name(&self) -> &str {
        self.name.rsplit('/').next().unwrap_or(&self.name)
    }

    /// Adds it to a digest, its name included: ids are made of it.
    pub(super) fn hash(&self, digest: &mut Sha256) {
        for part in [self.short_name(), &self.text] {
            digest.update(part.len().to_be_bytes());
            digest.update(part);
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

/// Which policy of its text it is: Cedar numbers them as it reads.
fn position(id: &PolicyId) -> usize {
    let id: &str = id.as_ref();
    id.trim_start_matches("policy").parse().unwrap_or_default()
}

/// Line and column of an offset in bytes, from 1; columns count characters.
fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = before.matches('\n').count() + 1;
    let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
    (line, column)
}

fn read_file(path: &Path) -> Result<Source, PolicyError> {
    let failed = |reason: String| PolicyError::Read {
        path: path.to_path_buf(),
        reason,
    };
    let file = fs::File::open(path).map_err(|error| failed(error.to_string()))?;
    let mut text = String::new();
    file.take(MAX_FILE_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(|error| failed(error.to_string()))?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(failed(format!("it has more than {MAX_FILE_BYTES} bytes")));
    }
    Ok(Source::new(path.display().to_string(), text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_syntax_error_is_told_with_its_place() {
        let source = Source::new(
            "test.cedar",
            "permit (principal, action, resource);\n\npermit (principal, nonsense, resource);\n",
        );
        let mistakes = source.parse().unwrap_err();
        let text = mistakes.first().unwrap().to_string();
        assert!(text.starts_with("test.cedar:3:20: "), "{text}");
    }

    #[test]
    fn policies_are_named_by_their_annotation_or_their_place_in_the_file() {
        let text = "permit (principal, action, resource);\n@id(\"named\") forbid (principal, action, resource);\npermit (principal, action, resource);";
        let policies = Source::new("/etc/a/test.cedar", text).parse().unwrap();
        let ids: Vec<_> = policies
            .iter()
            .map(|policy| policy.id().to_string())
            .collect();
        assert_eq!(ids, ["test.cedar#1", "named", "test.cedar#3"]);
    }

    #[test]
    fn templates_are_refused() {
        let text = "permit (principal == ?principal, action, resource);";
        assert!(Source::new("t", text).parse().is_err());
    }
}
