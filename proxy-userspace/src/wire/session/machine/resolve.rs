//! What a message was about: the statement behind a name, at the moment the server looked the name up.

use std::sync::Arc;

use bytes::Bytes;

use crate::wire::session::event::{Finished, Prepared, Subject, Target, Verdict};
use crate::wire::session::named::{Portal, Portals, Skipped, Statements, Unmade};

/// The server's names, and those a failed batch would have made.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    statements: Statements,
    portals: Portals,
    /// What messages that failed or were not run would have made: what is skipped behind them meant these.
    unmade_statements: Skipped<Arc<Prepared>>,
    unmade_portals: Skipped<Unmade>,
}

impl Names {
    /// ReadyForQuery: nothing refers to what a failed batch did not make.
    pub(super) fn batch_is_over(&mut self) {
        self.unmade_statements.clear();
        self.unmade_portals.clear();
    }

    /// The transaction has ended, and its portals with it.
    pub(super) fn transaction_is_over(&mut self) {
        self.portals.clear();
    }

    /// Applies what a command tag says of names (src/include/tcop/cmdtaglist.h).
    pub(super) fn completed(&mut self, tag: &[u8]) {
        match tag {
            // The unnamed statement is not in the server's table and stays (DropAllPreparedStatements).
            b"DEALLOCATE ALL" => self.statements.clear_named(),
            b"DISCARD ALL" => {
                self.statements.clear_named();
                self.portals.clear();
            }
            b"DEALLOCATE" => self.statements.some_may_be_gone(),
            b"PREPARE" => self.statements.one_was_made_by_sql(),
            b"DECLARE CURSOR" => self.portals.one_was_made_by_sql(),
            // A transaction may end and another begin before ReadyForQuery tells anything; procedures do it too.
            b"COMMIT"
            | b"ROLLBACK"
            | b"PREPARE TRANSACTION"
            | b"CALL"
            | b"DO"
            | b"CLOSE CURSOR"
            | b"CLOSE CURSOR ALL" => self.portals.some_may_be_gone(),
            _ => {}
        }
    }

    /// Fills in what a message was about, and changes the names as its outcome says.
    pub(super) fn resolve(&mut self, finished: &mut Finished) {
        let verdict = finished.outcome.verdict;
        match &mut finished.subject {
            // exec_simple_query drops the unnamed statement before it does anything else, and runs in the unnamed
            // portal; neither happens when the message was refused or skipped.
            Subject::Query { .. } => {
                if !finished.malformed && verdict != Verdict::NotRun {
                    self.statements.remove(b"");
                    self.portals.remove(b"");
                }
            }
            Subject::Parse { prepared } => self.parsed(prepared, finished.malformed, verdict),
            Subject::Bind { .. } => self.bound(&mut finished.subject, verdict),
            Subject::Execute { .. } => self.executed(&mut finished.subject, verdict),
            Subject::Close(target) if verdict == Verdict::Completed => match target {
                Target::Statement(name) => self.statements.remove(name),
                Target::Portal(name) => self.portals.remove(name),
            },
            Subject::Describe(_)
            | Subject::Close(_)
            | Subject::FunctionCall { .. }
            | Subject::Sync => {}
        }
    }

    fn parsed(&mut self, prepared: &Arc<Prepared>, malformed: bool, verdict: Verdict) {
        if verdict == Verdict::Completed {
            self.statements.insert(&prepared.name, Arc::clone(prepared));
            return;
        }
        // exec_parse_message drops the unnamed statement before it looks at the text.
        if verdict == Verdict::Failed && prepared.name.is_empty() && !malformed {
            self.statements.remove(b"");
        }
        self.unmade_statements
            .insert(&prepared.name, Arc::clone(prepared));
    }

    fn bound(&mut self, subject: &mut Subject, verdict: Verdict) {
        let Subject::Bind {
            portal,
            statement,
            prepared,
            forgotten,
            parameters,
        } = subject
        else {
            return;
        };
        *prepared = self.statement(statement, verdict);
        *forgotten = prepared.is_none() && self.statements.may_have_forgotten(statement);
        let made = Portal {
            statement: statement.clone(),
            prepared: prepared.clone(),
            forgotten: *forgotten,
            parameters: parameters.clone(),
        };
        if verdict == Verdict::Completed {
            self.portals.insert(portal, made);
        } else {
            self.unmade_portals.insert(portal, Unmade(made));
        }
    }

    fn executed(&self, subject: &mut Subject, verdict: Verdict) {
        let Subject::Execute {
            portal,
            statement,
            prepared,
            forgotten,
            parameters,
            ..
        } = subject
        else {
            return;
        };
        let unmade = match verdict {
            Verdict::NotRun | Verdict::Unanswered => {
                self.unmade_portals.find(portal).map(|unmade| &unmade.0)
            }
            _ => None,
        };
        match unmade.or_else(|| self.portals.find(portal)) {
            Some(found) => {
                *statement = Some(found.statement.clone());
                prepared.clone_from(&found.prepared);
                *forgotten = found.forgotten;
                parameters.clone_from(&found.parameters);
            }
            None => *forgotten = self.portals.may_have_forgotten(portal),
        }
    }

    fn statement(&self, name: &Bytes, verdict: Verdict) -> Option<Arc<Prepared>> {
        let unmade = match verdict {
            Verdict::NotRun | Verdict::Unanswered => self.unmade_statements.find(name),
            _ => None,
        };
        unmade.or_else(|| self.statements.find(name)).cloned()
    }
}
