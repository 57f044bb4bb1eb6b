//! Policies by what they can have a say about: Cedar evaluates each policy of a set for each question, and of a thousand
//! a process falls under a few. Leaving those out whose scope does not fit leaves every answer as it is: they would
//! have been neither satisfied nor in error.

use std::collections::{BTreeSet, HashMap};
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cedar_policy::{Effect, Policy, PolicySet};

use super::scope::{Around, Name, Scope};
use super::subject::{Doubt, Membership};

/// How many selections are kept as sets; where there are more, all are made anew.
const MAX_SETS: usize = 64;

/// How many groups are supposed one by one: each is an evaluation, in answer to whoever lets himself not be known.
const MAX_GUESSES: usize = 32;

/// A policy set, to be asked in part.
#[derive(Debug)]
pub(super) struct Selection {
    whole: Arc<PolicySet>,
    scoped: Vec<Scoped>,
    /// Sets made so far, by the positions of their policies in `scoped`.
    made: Mutex<HashMap<Vec<usize>, Arc<PolicySet>>>,
}

/// A policy and its scope.
#[derive(Debug)]
pub(super) struct Scoped {
    pub(super) policy: Policy,
    scope: Scope,
    /// The entities it names.
    named: Vec<Name>,
}

impl Scoped {
    /// Those of the groups it names of which it is not known whether the process is in them.
    fn in_doubt(&self, doubts: &[Doubt]) -> Vec<Membership> {
        let named = self.named.iter();
        let doubted = named.filter_map(|Name { kind, id }| {
            let doubt = doubts.iter().find(|doubt| doubt.is_about(kind, id))?;
            let (kind, id) = (doubt.kind(), id.clone());
            Some(Membership { kind, id })
        });
        doubted.collect()
    }
}

impl Selection {
    pub(super) fn of(set: PolicySet) -> Self {
        let scoped = set.policies().map(|policy| Scoped {
            policy: policy.clone(),
            scope: Scope::of(policy),
            named: policy.entity_literals().iter().map(Name::of).collect(),
        });
        Self {
            scoped: scoped.collect(),
            whole: Arc::new(set),
            made: Mutex::default(),
        }
    }

    /// All policies.
    pub(super) fn whole(&self) -> &PolicySet {
        &self.whole
    }

    /// The permits whose scope fits.
    pub(super) fn permits(&self, around: &Around<'_>) -> impl Iterator<Item = &Policy> {
        let fitting = self.scoped.iter().filter(|it| it.scope.fits(around));
        let policies = fitting.map(|it| &it.policy);
        policies.filter(|policy| policy.effect() == Effect::Permit)
    }

    /// What to suppose of a process where nobody could establish whether it is in groups of some kinds: that it is in all
    /// that forbids name, and where one forbid names several, in each of them alone.
    pub(super) fn guesses(&self, doubts: &[Doubt]) -> Vec<Vec<Membership>> {
        if doubts.is_empty() {
            return Vec::new();
        }
        let forbids = self.scoped.iter();
        let forbids = forbids.filter(|it| it.policy.effect() == Effect::Forbid);
        let doubted: Vec<_> = forbids.map(|it| it.in_doubt(doubts)).collect();
        let all: BTreeSet<Membership> = doubted.iter().flatten().cloned().collect();
        let several = doubted.into_iter().filter(|groups| groups.len() > 1);
        let each: BTreeSet<Membership> = several.flatten().collect();
        let each = each.into_iter().take(MAX_GUESSES);
        let guesses = [all.into_iter().collect()].into_iter();
        let guesses = guesses.chain(each.map(|group| vec![group]));
        guesses.filter(|guess| !guess.is_empty()).collect()
    }

    /// Every policy whose scope fits, as a set.
    pub(super) fn fitting(&self, around: &Around<'_>) -> Arc<PolicySet> {
        let places = self.scoped.iter().enumerate();
        let fitting = places.filter(|(_, it)| it.scope.fits(around));
        let fitting: Vec<_> = fitting.map(|(place, _)| place).collect();
        if fitting.len() == self.scoped.len() {
            return Arc::clone(&self.whole);
        }
        let known = self.lock().get(&fitting).map(Arc::clone);
        known.unwrap_or_else(|| self.make(fitting))
    }

    fn make(&self, places: Vec<usize>) -> Arc<PolicySet> {
        let mut set = PolicySet::new();
        for scoped in places.iter().filter_map(|place| self.scoped.get(*place)) {
            if set.add(scoped.policy.clone()).is_err() {
                // Their names were unique in the whole set. All of them give the same answer.
                return Arc::clone(&self.whole);
            }
        }
        let set = Arc::new(set);
        let mut made = self.lock();
        let is_full = made.len() >= MAX_SETS;
        let left = if is_full {
            mem::take(&mut *made)
        } else {
            HashMap::new()
        };
        made.insert(places, Arc::clone(&set));
        drop(made);
        // Which takes its time, and holds up nobody else here.
        drop(left);
        set
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Vec<usize>, Arc<PolicySet>>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
