//! Parts of documents that a command writes, between two lines; everything else is written by people.

use std::fs;

use anyhow::{Context, Result};

use crate::workspace;

const END: &str = "<!-- end -->\n";

/// Puts `content` between the line `begin` and the next end in a file below the root of the workspace.
///
/// # Errors
///
/// When the file cannot be read or written, or has no place for it.
pub(crate) fn write_part(file: &str, begin: &str, content: &str) -> Result<()> {
    let path = workspace::root().join(file);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {file}"))?;
    let written = replaced(&text, begin, content)
        .with_context(|| format!("{file} has no place for what was found: {begin}…{END}"))?;
    if written != text {
        fs::write(&path, written).with_context(|| format!("cannot write {file}"))?;
        println!("{file} has changed: look at it, and commit it");
    }
    Ok(())
}

fn replaced(text: &str, begin: &str, content: &str) -> Option<String> {
    let (before, rest) = text.split_once(begin)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{begin}{content}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_replaces_the_one_before_and_nothing_else() {
        let text =
            "before\n<!-- a -->\nold\n<!-- end -->\nbetween\n<!-- b -->\nother\n<!-- end -->\n";
        assert_eq!(
            replaced(text, "<!-- a -->\n", "new\n"),
            Some(text.replace("old", "new"))
        );
        assert_eq!(replaced(text, "<!-- c -->\n", "new\n"), None);
        assert_eq!(
            replaced("<!-- a -->\nno end\n", "<!-- a -->\n", "new\n"),
            None
        );
    }
}
