//! Tables of text, for a terminal and for a page. Pure.

use std::fmt::Write as _;

/// Between two columns on a terminal.
const GAP: &str = "  ";

/// A line of titles, and rows of as many cells.
#[derive(Debug)]
pub(super) struct Grid {
    titles: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Grid {
    /// Makes a table without rows.
    pub(super) fn new(titles: Vec<String>) -> Self {
        Self {
            titles,
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub(super) fn add(&mut self, row: Vec<String>) {
        self.rows.push(row);
    }

    /// Returns the table as Markdown.
    pub(super) fn markdown(&self) -> String {
        let mut text = format!(
            "| {} |\n|{}\n",
            self.titles.join(" | "),
            "---|".repeat(self.titles.len())
        );
        for row in &self.rows {
            let _ = writeln!(text, "| {} |", row.join(" | "));
        }
        text
    }

    /// Returns the table with its columns below each other.
    pub(super) fn aligned(&self) -> String {
        let mut text = String::new();
        for row in std::iter::once(&self.titles).chain(&self.rows) {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let width = self.width(column);
                let _ = write!(line, "{cell:<width$}{GAP}");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    fn width(&self, column: usize) -> usize {
        std::iter::once(&self.titles)
            .chain(&self.rows)
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_cells_are_shown_on_a_terminal_and_on_a_page() {
        let mut grid = Grid::new(vec!["workload".to_owned(), "direct".to_owned()]);
        grid.add(vec!["COPY".to_owned(), "1 µs".to_owned()]);
        assert_eq!(grid.aligned(), "workload  direct\nCOPY      1 µs\n");
        assert_eq!(
            grid.markdown(),
            "| workload | direct |\n|---|---|\n| COPY | 1 µs |\n"
        );
    }
}
