//! Who is at work on which path: a name is not changed while its file is opened, written for the first time or uploaded.
//!
//! A rename is a copy and a removal, and an upload goes to the name that a file has when it begins. Without an order between
//! the two, what was written in between would be removed with the old name, or come back under it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// All claims of a volume, in the order in which they were made. A claim waits for the earlier ones that it cannot be beside,
/// so none is passed over for ever. Whoever holds one must not ask for another.
#[derive(Default)]
pub struct Claims {
    table: Mutex<Table>,
    freed: Notify,
}

#[derive(Default)]
struct Table {
    next: u64,
    claimed: Vec<Claimed>,
}

struct Claimed {
    ticket: u64,
    paths: Vec<String>,
    alone: bool,
}

/// Holds its paths until it is dropped.
#[must_use = "the paths are claimed only as long as this lives"]
pub struct Claim<'a> {
    all: &'a Claims,
    ticket: u64,
}

impl Claims {
    /// Waits until no name above, at or below a path is being changed.
    pub async fn share(&self, path: &str) -> Claim<'_> {
        self.claim(vec![path.to_owned()], false).await
    }

    /// Waits until nothing else is under way above, at or below any of the paths.
    pub async fn alone(&self, paths: &[&str]) -> Claim<'_> {
        let paths = paths.iter().map(|path| (*path).to_owned()).collect();
        self.claim(paths, true).await
    }

    async fn claim(&self, paths: Vec<String>, alone: bool) -> Claim<'_> {
        let claim = self.enqueue(paths, alone);
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            freed.as_mut().enable();
            if !self.table().must_wait(claim.ticket) {
                return claim;
            }
            freed.await;
        }
    }

    fn enqueue(&self, paths: Vec<String>, alone: bool) -> Claim<'_> {
        let mut table = self.table();
        let ticket = table.next;
        table.next += 1;
        table.claimed.push(Claimed { ticket, paths, alone });
        Claim { all: self, ticket }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn must_wait(&self, ticket: u64) -> bool {
        let Some(at) = self.claimed.iter().position(|claimed| claimed.ticket == ticket) else {
            return false;
        };
        let (earlier, ours) = (&self.claimed[..at], &self.claimed[at]);
        earlier.iter().any(|other| other.excludes(ours))
    }
}

impl Claimed {
    fn excludes(&self, other: &Self) -> bool {
        let mut pairs = self
            .paths
            .iter()
            .flat_map(|one| other.paths.iter().map(move |two| (one, two)));
        (self.alone || other.alone) && pairs.any(|(one, two)| is_at_or_in(one, two) || is_at_or_in(two, one))
    }
}

fn is_at_or_in(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || folder.is_empty())
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let ticket = self.ticket;
        self.all
            .table()
            .claimed
            .retain(|claimed| claimed.ticket != ticket);
        self.all.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn only_what_can_meet_waits() {
        let claims = Claims::default();
        let renaming = claims.alone(&["a", "z"]).await;
        assert!(claims.share("a/b").now_or_never().is_none());
        assert!(claims.share("z").now_or_never().is_none());
        assert!(claims.alone(&["a"]).now_or_never().is_none());
        let _neighbour = claims.share("a-b").now_or_never().unwrap();
        drop(renaming);
        let _one = claims.share("a/b").now_or_never().unwrap();
        let _two = claims.share("a/b").now_or_never().unwrap();
        assert!(claims.alone(&["a"]).now_or_never().is_none());
    }

    #[tokio::test]
    async fn nobody_is_passed_over_and_who_gives_up_is_not_waited_for() {
        let claims = Claims::default();
        let held = claims.share("a").await;
        {
            let mut waiting = std::pin::pin!(claims.alone(&["a"]));
            assert!(waiting.as_mut().now_or_never().is_none());
            assert!(claims.share("a").now_or_never().is_none(), "it came later");
            drop(held);
            let _alone = waiting.now_or_never().unwrap();
        }
        let _free = claims.share("a").now_or_never().unwrap();
    }
}
