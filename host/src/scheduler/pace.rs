//! How many prompt tokens a step may hold, from how long the last ones took.
//!
//! Beside decoding sequences a chunk is as large as the step's time allows, so that the next token of the others
//! does not wait for long. Alone a prompt takes large chunks, though not so large that a request that
//! comes meanwhile has to wait for long. Times are told, not taken: there is no clock here.

use std::time::Duration;

/// Steps of a multiple of this many rows run at the full speed of the kernels; filling one up costs little.
const ROWS: u32 = 32;
/// Where few decode, filling up ends at so many rows for each: their next token is a matter of few rows.
const ROWS_EACH: u32 = 8;
/// Rows of a step that others decode in, before anything is known of its time.
const UNKNOWN_MIXED: u32 = ROWS;
/// Rows of a prompt's chunk before anything is known.
const UNKNOWN_ALONE: u32 = 128;
/// Least rows of a prompt's chunk when nothing decodes: fewer waste the kernels.
const LEAST_ALONE: u32 = 64;
/// Seconds that a step with many rows of prompts takes at most, roughly: those who come meanwhile wait for it.
const LONG_STEP: f64 = 0.5;
/// A mixed step may take this many times the last one in which all decoded, or more where many prompts wait for few
/// that decode: they wait too, and a full batch is what makes all of them fast.
const MIXED_SHARE: f64 = 2.0;
/// The same for one that is only filled up to full speed: fewer rows would take nearly as long.
const FILL_SHARE: f64 = 2.85;
/// A prompt's row beside others is taken to cost at least and at most so many times one alone. A disturbed step
/// would else make chunks so small, or so large, that later ones teach nothing better.
const MIXED_COST: (f64, f64) = (0.5, 3.0);
/// Steps in which all decoded that are remembered.
const REMEMBERED: usize = 3;
/// Weight of the earlier measurements beside the latest.
const EARLIER: f64 = 0.8;

/// What is known of the steps' times, in seconds.
pub struct Pace {
    /// Longest step that others decode in; `None`: by the last ones in which all decoded.
    max_step: Option<f64>,
    /// Sequences and times of the last steps in which all decoded, the latest first.
    decodes: [Option<(u32, f64)>; REMEMBERED],
    /// Prompts' rows in steps without decoding sequences.
    alone: Rate,
    /// What prompts' rows add to steps in which others decode.
    mixed: Rate,
}

impl Pace {
    pub fn new(max_step: Option<Duration>) -> Self {
        Pace {
            max_step: max_step.map(|time| time.as_secs_f64()),
            decodes: [None; REMEMBERED],
            alone: Rate::default(),
            mixed: Rate::default(),
        }
    }

    /// Learns from a step with so many rows of prompts and of decoding sequences.
    pub fn stepped(&mut self, prefill: u32, decoding: u32, time: Duration) {
        let time = time.as_secs_f64();
        match (prefill, decoding) {
            (0, 0) => {}
            (0, _) => {
                self.decodes.rotate_right(1);
                self.decodes[0] = Some((decoding, time));
            }
            (_, 0) => self.alone.add(prefill, time),
            _ => {
                if let Some(decode) = self.decode_seconds(decoding) {
                    self.mixed.add(prefill, time - decode);
                    self.unbelieve(decoding, time, decode);
                }
            }
        }
    }

    /// A mixed step that took less than decoding is thought to take shows that what it is thought by was disturbed.
    fn unbelieve(&mut self, decoding: u32, time: f64, decode: f64) {
        if time < decode {
            self.decodes = [None; REMEMBERED];
            self.decodes[0] = Some((decoding, time));
        }
    }

    /// Sequences and time of the last step in which all decoded; of one before it if that held no less and was quicker,
    /// since something else may have disturbed the last.
    fn decode(&self) -> Option<(u32, f64)> {
        let (sequences, _) = self.decodes[0]?;
        let held_no_less = self.decodes.iter().flatten().filter(|(before, _)| *before >= sequences);
        held_no_less.copied().min_by(|(_, a), (_, b)| a.total_cmp(b))
    }

    /// Rows that so many prompts may take in a step in which so many sequences decode. At least 1, at most `most`.
    pub fn prefill_rows(&self, prompts: u32, decoding: u32, most: u32) -> u32 {
        let rows = if decoding == 0 { self.alone_rows() } else { self.mixed_rows(prompts, decoding) };
        rows.clamp(1, most.max(1))
    }

    fn alone_rows(&self) -> u32 {
        match self.alone.row() {
            Some(row) => whole((LONG_STEP / row) as u32, ROWS).max(LEAST_ALONE),
            None => UNKNOWN_ALONE,
        }
    }

    fn mixed_rows(&self, prompts: u32, decoding: u32) -> u32 {
        let unit = ROWS.min(ROWS_EACH.saturating_mul(decoding));
        let (Some((_, last)), Some(decode), Some(row)) =
            (self.decode(), self.decode_seconds(decoding), self.mixed_row())
        else {
            return whole(decoding + UNKNOWN_MIXED, unit) - decoding;
        };
        let usual = decode.max(last);
        let within = |seconds: f64| {
            let budget = self.max_step.unwrap_or(seconds);
            ((budget - decode) / row).round().clamp(0.0, f64::from(u32::MAX / 2)) as u32
        };
        let crowd = 1.0 + f64::from(prompts) / f64::from(decoding);
        if crowd > MIXED_SHARE && self.max_step.is_none() {
            let rows = within((crowd * usual).min(LONG_STEP).max(MIXED_SHARE * usual));
            return (decoding + rows).next_multiple_of(unit) - decoding;
        }
        let rows = whole(decoding + within(MIXED_SHARE * usual), unit).saturating_sub(decoding);
        let fill = unit - decoding % unit;
        rows.max(fill.min(within(FILL_SHARE * usual)))
    }

    /// What decoding takes with so many sequences, by the last time and what a row costs.
    fn decode_seconds(&self, decoding: u32) -> Option<f64> {
        let (sequences, time) = self.decode()?;
        let row = self.alone.row().unwrap_or(0.0);
        Some((time + (f64::from(decoding) - f64::from(sequences)) * row).max(time / 2.0))
    }

    fn mixed_row(&self) -> Option<f64> {
        let Some(alone) = self.alone.row() else { return self.mixed.row() };
        Some(self.mixed.row().unwrap_or(alone).clamp(alone * MIXED_COST.0, alone * MIXED_COST.1))
    }
}

/// What a row takes, of late. Large steps weigh more: they say it more exactly.
#[derive(Default)]
struct Rate {
    rows: f64,
    seconds: f64,
}

impl Rate {
    fn add(&mut self, rows: u32, seconds: f64) {
        self.rows = self.rows * EARLIER + f64::from(rows);
        self.seconds = self.seconds * EARLIER + seconds;
    }

    /// `None` before anything is known.
    fn row(&self) -> Option<f64> {
        (self.rows > 0.0).then(|| self.seconds / self.rows)
    }
}

/// Rounded down to a multiple.
fn whole(rows: u32, unit: u32) -> u32 {
    rows / unit * unit
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// After ten steps of each kind: 4 ms a row of a prompt, 80 ms for 4 sequences that decode.
    fn settled(max_step: Option<Duration>) -> Pace {
        let mut pace = Pace::new(max_step);
        for _ in 0..10 {
            pace.stepped(100, 0, 400 * MS);
            pace.stepped(0, 4, 80 * MS);
            pace.stepped(20, 4, 160 * MS);
        }
        pace
    }

    /// One prompt beside so many that decode.
    fn check(pace: &Pace, decoding: u32, most: u32, expected: u32) {
        assert_eq!(pace.prefill_rows(1, decoding, most), expected, "{decoding} decoding");
    }

    #[test]
    fn a_mixed_step_takes_twice_the_time_of_decoding_in_whole_rows() {
        // 80 ms for 20 rows; with the 4 that decode, 32 are whole.
        check(&settled(None), 4, 512, 28);
        // 36 more that decode cost 144 ms, so there are 224 ms for 56 rows: 96, with the 40.
        check(&settled(None), 40, 512, 56);
        // One alone is thought to take 68 ms of 160, which leaves 23 rows.
        check(&settled(None), 1, 512, 23);
        check(&settled(None), 4, 5, 5);
    }

    #[test]
    fn many_prompts_beside_few_that_decode_take_longer_steps() {
        let pace = settled(None);
        // As many as decode: twice the time, as for one. Three times as many: four times 80 ms, 240 for prompts.
        assert_eq!(pace.prefill_rows(4, 4, 512), 28);
        assert_eq!(pace.prefill_rows(12, 4, 512), 60);
        // Never more than half a second: one alone is thought to take 68 ms of it.
        assert_eq!(pace.prefill_rows(31, 1, 512), 111);
        assert_eq!(settled(Some(160 * MS)).prefill_rows(12, 4, 512), 20);
    }

    #[test]
    fn a_limit_given_is_kept() {
        // 320 ms for 80 rows, of which 64 are whole.
        check(&settled(Some(400 * MS)), 4, 512, 60);
        check(&settled(Some(MS)), 4, 512, 1);
    }

    #[test]
    fn alone_a_chunk_takes_half_a_second() {
        check(&settled(None), 0, 512, 96);
        let mut quick = Pace::new(None);
        quick.stepped(512, 0, MS);
        check(&quick, 0, 2048, 2048);
        let mut slow = Pace::new(None);
        slow.stepped(100, 0, 10_000 * MS);
        check(&slow, 0, 512, LEAST_ALONE);
    }

    #[test]
    fn before_anything_is_known_chunks_are_moderate() {
        check(&Pace::new(None), 0, 512, UNKNOWN_ALONE);
        check(&Pace::new(None), 4, 512, 28);
        check(&Pace::new(Some(MS)), 40, 512, 24);
    }

    #[test]
    fn a_disturbed_step_does_not_stop_prompts() {
        let mut pace = settled(None);
        (0..100).for_each(|_| pace.stepped(1, 4, 500 * MS));
        // A row is taken to cost 12 ms, and 2.85 times 80 ms leave 148.
        check(&pace, 4, 512, 12);
    }

    #[test]
    fn a_disturbed_decode_does_not_let_prompts_in() {
        let mut pace = settled(None);
        pace.stepped(0, 4, 2000 * MS);
        check(&pace, 4, 512, 28);
        // The very first was slow: the next mixed step shows it.
        let mut pace = Pace::new(None);
        pace.stepped(100, 0, 400 * MS);
        pace.stepped(0, 4, 2000 * MS);
        assert!(pace.prefill_rows(1, 4, 512) > 400);
        pace.stepped(28, 4, 200 * MS);
        assert!(pace.prefill_rows(1, 4, 512) <= 92, "{}", pace.prefill_rows(1, 4, 512));
    }

    #[test]
    fn a_lucky_step_does_not_make_rows_free() {
        let mut pace = settled(None);
        (0..100).for_each(|_| pace.stepped(12, 4, 10 * MS));
        assert!(pace.prefill_rows(1, 4, 10_000) <= 48, "{}", pace.prefill_rows(1, 4, 10_000));
    }
}
