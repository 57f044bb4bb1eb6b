//! Compares what a case gets from the server directly with what it gets through pgusher, whole and cut.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};

use super::administrator::Administrator;
use super::client::ClientItem;
use super::fixture::{Case, Happening, Splits, is_end};
use super::player::{LOGIN_STEPS, Played, Player, Route, play};
use super::reply::{Reply, masked, show};
use crate::cluster::Version;
use crate::stage::Stage;

/// Most bytes of a case that is cut at every one of them.
const SHORT_BYTES: usize = 200;
/// How often a longer case is cut, and into how many pieces at most.
const RANDOM_CUTTINGS: usize = 4;
const RANDOM_PIECES: usize = 8;

/// How a case's bytes are cut on their way to pgusher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cutting {
    /// Not at all.
    Whole,
    /// Short cases at every byte, long ones at random with this seed.
    Cut {
        /// What the random places depend on, together with the case.
        seed: u64,
    },
}

/// Comparisons on one stage, one after the other.
#[derive(Debug)]
pub struct Comparison<'a> {
    direct: Route<'a>,
    through: Route<'a>,
    administrator: Administrator,
    version: Version,
    cutting: Cutting,
}

impl<'a> Comparison<'a> {
    /// Prepares to compare the server of `stage` with what its pgusher, listening there, makes of it.
    #[must_use]
    pub fn on(stage: &'a Stage, listener: SocketAddr, cutting: Cutting) -> Self {
        Self {
            direct: Route::Direct(stage.cluster),
            through: Route::Through(stage, listener),
            administrator: Administrator::of(stage.cluster),
            version: stage.cluster.version,
            cutting,
        }
    }

    /// Plays `case` directly and through pgusher and compares the answers, byte for byte except for what is masked.
    ///
    /// # Errors
    /// When they differ, or the case's own demands are not met.
    pub fn of(&self, case: &Case) -> Result<()> {
        let expected = self.play(case, self.direct, &[]).context("directly")?;
        let once_more = self.play(case, self.direct, &[]);
        same(case, &expected, &once_more.context("directly once more")?)
            .context("the server itself does not answer twice alike: a bad fixture")?;
        let found = self.play(case, self.through, &[]);
        same(case, &expected, &found.context("through pgusher")?).context("through pgusher")?;
        let Cutting::Cut { seed } = self.cutting else {
            return Ok(());
        };
        let mut cuttings = cuttings(case, expected.sent, seed);
        if is_repeatable(case) {
            return self.in_one_session(case, &expected, &cuttings);
        }
        // A session for every cut costs the server more than all the rest: the versions share them.
        if case.only.is_none() {
            cuttings.retain(|cuts| !is_for_another(self.version, cuts));
        }
        for cuts in &cuttings {
            let context = || format!("through pgusher, cut after {cuts:?} bytes, seed {seed}");
            let found = self.play(case, self.through, cuts).with_context(context)?;
            same(case, &expected, &found).with_context(context)?;
        }
        Ok(())
    }

    fn play(&self, case: &Case, route: Route<'_>, cuts: &[usize]) -> Result<Played> {
        play(case, route, &self.administrator, cuts)
    }

    /// Plays what comes behind the login for every cutting, one after the other: logins are what takes long.
    fn in_one_session(
        &self,
        case: &Case,
        expected: &Played,
        cuttings: &[Vec<usize>],
    ) -> Result<()> {
        let expected = expected.replies.get(expected.login..).unwrap_or_default();
        let mut player = Player::connect(case, self.through, &self.administrator)?;
        player.log_in()?;
        for cuts in cuttings {
            let context = || format!("through pgusher, cut after {cuts:?} bytes");
            let found = player.again(cuts).with_context(context)?;
            same_replies(case, expected, &found).with_context(context)?;
        }
        Ok(())
    }
}

/// Whether the session is as good as new after the case: it logs in, and ends ready for the next query.
fn is_repeatable(case: &Case) -> bool {
    let is_ready = |step: &Happening| match step {
        Happening::Server(None, expectations) => expectations
            .last()
            .is_some_and(|last| last.to_string().starts_with('Z')),
        _ => false,
    };
    let ends = |step: &Happening| match step {
        Happening::Client(item) => {
            matches!(
                item,
                ClientItem::ShutDown | ClientItem::Close | ClientItem::Abort
            )
        }
        Happening::Server(_, expectations) => expectations.iter().any(is_end),
        _ => false,
    };
    case.logs_in
        && !case.is_replication
        && case.steps.len() > LOGIN_STEPS
        && case.steps.last().is_some_and(|step| is_ready(&step.what))
        && !case.steps.iter().any(|step| ends(&step.what))
}

/// Whether a single cut is made on the way to the other version: odd places are for the oldest, even ones for the newest.
fn is_for_another(version: Version, cuts: &[usize]) -> bool {
    match cuts {
        [cut] => cut.is_multiple_of(2) != (version == Version::V18),
        _ => false,
    }
}

/// Where to cut a case that sends so many bytes: one list a run.
fn cuttings(case: &Case, sent: usize, seed: u64) -> Vec<Vec<usize>> {
    match &case.splits {
        _ if sent < 2 => Vec::new(),
        Splits::None => Vec::new(),
        Splits::Within(range) => range.clone().map(|at| vec![at]).collect(),
        Splits::All if sent <= SHORT_BYTES => {
            let mut cuttings: Vec<Vec<usize>> = (1..sent).map(|at| vec![at]).collect();
            cuttings.push((1..sent).collect());
            cuttings
        }
        Splits::All => {
            let of_case = case.name.bytes().fold(seed, |hash, byte| {
                hash.wrapping_mul(31).wrapping_add(u64::from(byte))
            });
            let mut random = fastrand::Rng::with_seed(of_case);
            (0..RANDOM_CUTTINGS)
                .map(|_| {
                    let pieces = random.usize(2..=RANDOM_PIECES);
                    let mut cuts: Vec<usize> = (1..pieces).map(|_| random.usize(1..sent)).collect();
                    cuts.sort_unstable();
                    cuts.dedup();
                    cuts
                })
                .collect()
        }
    }
}

fn same(case: &Case, expected: &Played, found: &Played) -> Result<()> {
    same_replies(case, &expected.replies, &found.replies)?;
    ensure!(
        expected.end == found.end,
        "the connection ended with {:?} instead of {:?}",
        found.end,
        expected.end
    );
    Ok(())
}

fn same_replies(case: &Case, expected: &[Reply], found: &[Reply]) -> Result<()> {
    let expected = masked(expected, case);
    let found = masked(found, case);
    let differs = expected
        .iter()
        .zip(&found)
        .position(|(one, other)| one != other);
    let at = match differs {
        None if expected.len() == found.len() => return Ok(()),
        None => expected.len().min(found.len()),
        Some(at) => at,
    };
    let nothing = || "nothing".to_owned();
    bail!(
        "reply {at} is\n  {}\nand not\n  {}",
        found.get(at).map_or_else(nothing, show),
        expected.get(at).map_or_else(nothing, show)
    )
}

#[cfg(test)]
mod tests {
    use super::super::fixture::parse;
    use super::*;

    fn case(text: &str) -> Case {
        parse("test.txt", &format!("case one\n{text}"))
            .unwrap()
            .remove(0)
    }

    #[test]
    fn short_cases_are_cut_at_every_byte_and_long_ones_at_random() {
        let all = case("C: sync\nS: Z");
        assert_eq!(
            cuttings(&all, 4, 1),
            [vec![1], vec![2], vec![3], vec![1, 2, 3]]
        );
        let random = cuttings(&all, 5000, 1);
        assert_eq!(random.len(), RANDOM_CUTTINGS);
        assert_eq!(random, cuttings(&all, 5000, 1));
        assert_ne!(random, cuttings(&all, 5000, 2));
        assert_eq!(cuttings(&case("split none\nC: sync\nS: Z"), 4, 1).len(), 0);
        let within = case("split 2..3\nC: sync\nS: Z");
        assert_eq!(cuttings(&within, 9, 1), [vec![2], vec![3]]);
    }

    #[test]
    fn the_versions_share_single_cuts_and_nothing_else() {
        for cut in [vec![1], vec![2]] {
            let (oldest, newest) = (
                is_for_another(Version::V15, &cut),
                is_for_another(Version::V18, &cut),
            );
            assert_ne!(oldest, newest, "{cut:?}");
        }
        assert!(!is_for_another(Version::V15, &[1, 2]));
        assert!(!is_for_another(Version::V18, &[1, 2]));
    }

    #[test]
    fn only_cases_that_leave_a_ready_session_are_repeated_on_it() {
        assert!(is_repeatable(&case("login\nC: sync\nS: Z(I)")));
        assert!(!is_repeatable(&case("C: sync\nS: Z(I)")));
        assert!(!is_repeatable(&case("login\nC: sync\nS: Z(I) eof")));
        assert!(!is_repeatable(&case(
            "login\nC: sync\nC: shutdown\nS: Z(I)"
        )));
        assert!(!is_repeatable(&case(
            "login replication=true\nC: sync\nS: Z(I)"
        )));
    }

    #[test]
    fn a_missing_or_different_reply_is_found() {
        let case = case("C: sync\nS: Z");
        let reply = |byte: u8| Reply::Raw(vec![byte]);
        assert!(same_replies(&case, &[reply(1)], &[reply(1)]).is_ok());
        for found in [vec![reply(2)], vec![], vec![reply(1), reply(1)]] {
            assert!(
                same_replies(&case, &[reply(1)], &found).is_err(),
                "{found:?}"
            );
        }
    }
}
