//! Sequence numbers: each request of a session once, so that one who recorded it cannot have it done again.

use super::ParseError;

const FIELD: &str = "x-amz-rdma-seq";
const WORDS: usize = 16;
/// Requests that overtake each other by less than this are told from repeated ones.
const SPAN: u64 = 64 * WORDS as u64;

/// A sequence number as it is sent: decimal, 1 or more.
///
/// # Errors
/// What is wrong with it.
pub fn sequence_number(text: &str) -> Result<u64, ParseError> {
    let plain = !text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| plain).ok_or(ParseError::new(
        FIELD,
        "is not a decimal number of 64 bits, 1 or more",
    ))
}

/// A sequence number that was used, or is too old to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the sequence number was used already, or is older than the last {SPAN}")]
pub struct Stale;

/// Which sequence numbers of a session were used: the highest, and a bit for each of the 1024 up to it (RFC 4303, 3.4.3
/// has the same for IPsec).
#[derive(Debug, Clone, Default)]
pub struct SequenceWindow {
    highest: u64,
    /// Bit `n % SPAN` says whether `n` was used, for `highest - SPAN < n <= highest`.
    used: [u64; WORDS],
}

impl SequenceWindow {
    /// Uses a number up.
    ///
    /// # Errors
    /// [`Stale`], and nothing changes.
    pub fn take(&mut self, number: u64) -> Result<(), Stale> {
        if number == 0 || self.highest.saturating_sub(number) >= SPAN {
            return Err(Stale);
        }
        if number > self.highest {
            if number - self.highest >= SPAN {
                self.used = [0; WORDS];
            } else {
                for passed in self.highest + 1..number {
                    let (word, bit) = place(passed);
                    self.used[word] &= !bit;
                }
            }
            self.highest = number;
            let (word, bit) = place(number);
            self.used[word] |= bit;
            return Ok(());
        }
        let (word, bit) = place(number);
        if self.used[word] & bit != 0 {
            return Err(Stale);
        }
        self.used[word] |= bit;
        Ok(())
    }
}

fn place(number: u64) -> (usize, u64) {
    let at = number % SPAN;
    // Below WORDS.
    (usize::try_from(at / 64).unwrap_or(0), 1 << (at % 64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    /// What the window must do, said without any cleverness.
    #[derive(Default)]
    struct Model {
        used: HashSet<u64>,
        highest: u64,
    }

    impl Model {
        fn take(&mut self, number: u64) -> Result<(), Stale> {
            let too_old = self.highest >= 1024 && number <= self.highest - 1024;
            if number == 0 || too_old || !self.used.insert(number) {
                return Err(Stale);
            }
            self.highest = self.highest.max(number);
            Ok(())
        }
    }

    proptest! {
        #[test]
        fn the_window_does_what_the_model_does(
            steps in prop::collection::vec((any::<bool>(), 0u64..2500, prop::option::weighted(0.02, any::<u64>())), 1..400)
        ) {
            let (mut window, mut model) = (SequenceWindow::default(), Model::default());
            for (forward, by, anywhere) in steps {
                let number = anywhere.unwrap_or(if forward {
                    model.highest.saturating_add(by / 100)
                } else {
                    model.highest.saturating_sub(by)
                });
                prop_assert_eq!(window.take(number), model.take(number), "{}", number);
            }
        }
    }

    #[test]
    fn the_last_number_of_all_can_be_used_once() {
        let mut window = SequenceWindow::default();
        assert_eq!(window.take(u64::MAX), Ok(()));
        assert_eq!(window.take(u64::MAX), Err(Stale));
        assert_eq!(window.take(u64::MAX - 1023), Ok(()));
        assert_eq!(window.take(u64::MAX - 1024), Err(Stale));
        assert_eq!(window.take(1), Err(Stale));
    }

    #[test]
    fn numbers_have_one_spelling() {
        assert_eq!(sequence_number("18446744073709551615"), Ok(u64::MAX));
        for wrong in ["", "0", "01", "+1", "-1", "1 ", "18446744073709551616", "1a"] {
            assert!(sequence_number(wrong).is_err(), "{wrong:?}");
        }
    }
}
