//! What other tools' rules would have done with the same requests.

use serin::rollout::judge::SlotCounts;

/// One minute of both versions: all, erred, slow.
type Minute = [[u64; 3]; 2];

/// What others would have done with the same requests, as their documents describe it.
#[derive(Default)]
pub struct Others {
    minute: Minute,
    slots: u32,
    five: Minute,
    life: Minute,
    minutes: u32,
    flagger_failures: u32,
    argo_failures: u32,
    /// Flagger, Argo, a window of a minute, a repeated test.
    pub rolled_back: [bool; 4],
}

impl Others {
    pub const NAMES: [&'static str; 4] =
        ["Flagger's loop", "Argo's template", "1-minute window", "z-test, p < 1%"];

    pub fn close(&mut self, counts: &SlotCounts) {
        let all = [counts.canary_attempts, counts.stable_attempts];
        let errors = counts.objectives[0];
        let slow = counts.objectives[1];
        let bad = [[errors.canary.bad, slow.canary.bad], [errors.stable.bad, slow.stable.bad]];
        for (arm, sum) in self.minute.iter_mut().enumerate() {
            sum[0] += all[arm];
            sum[1] += bad[arm][0];
            sum[2] += bad[arm][1];
        }
        self.slots += 1;
        if self.slots.is_multiple_of(240) {
            self.close_minute();
        }
    }

    fn close_minute(&mut self) {
        let minute = std::mem::take(&mut self.minute);
        for sums in [&mut self.five, &mut self.life] {
            for (sum, more) in sums.iter_mut().zip(&minute) {
                sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
            }
        }
        let [all, errors, slow] = minute[0];
        let over = |bad: u64| bad as f64 > 0.01 * all as f64;
        let fails = over(errors) || over(slow);
        // Interval 1m, success rate >= 99 %, latency; failed checks add up to threshold 5.
        self.flagger_failures += u32::from(fails);
        self.rolled_back[0] |= self.flagger_failures >= 5;
        // Interval 5m, success rate >= 95 %, failureLimit 3.
        self.minutes += 1;
        if self.minutes.is_multiple_of(5) {
            let [all, errors, _] = std::mem::take(&mut self.five)[0];
            self.argo_failures += u32::from(errors as f64 > 0.05 * all as f64);
            self.rolled_back[1] |= self.argo_failures > 3;
        }
        self.rolled_back[2] |= fails;
        self.rolled_back[3] |= self.minutes > 1 && self.z() > 2.326;
    }

    /// Two proportions of errors over the whole life, one-sided.
    fn z(&self) -> f64 {
        let [[n, s, _], [m, t, _]] = self.life.map(|sums| sums.map(|sum| sum as f64));
        let pooled = (s + t) / (n + m);
        let spread = (pooled * (1.0 - pooled) * (1.0 / n + 1.0 / m)).sqrt();
        if spread > 0.0 { (s / n - t / m) / spread } else { 0.0 }
    }
}
