//! Numbers out of numbers: medians, percentiles, ratios, fairness. Pure.

use std::collections::BTreeMap;

/// The middle value, or the mean of the two middle ones. None of nothing.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    Some(if sorted.len() % 2 == 1 { upper } else { f64::midpoint(sorted[middle - 1], upper) })
}

/// The smallest value that `percent` per cent of all do not exceed (nearest rank).
pub fn percentile(sorted: &[u32], percent: usize) -> Option<u32> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

/// `value` in units of `base`; none if there is no base to speak of.
pub fn ratio(value: Option<f64>, base: Option<f64>) -> Option<f64> {
    let (value, base) = (value?, base?);
    (base > 0.0).then(|| value / base)
}

/// What the slowest of `clients` got, as a share of the mean: 1 is fair, 0 is a client that starved.
/// `done` counts the transactions of each client that did any.
pub fn slowest_share(done: &BTreeMap<u32, u64>, clients: u32) -> Option<f64> {
    let total: u64 = done.values().sum();
    if total == 0 || clients == 0 {
        return None;
    }
    let starved = done.len() < clients as usize;
    let slowest = if starved { 0 } else { done.values().copied().min().unwrap_or(0) };
    Some(slowest as f64 * f64::from(clients) / total as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_and_not_the_mean() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 100.0, 1.0]), Some(3.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 100.0]), Some(3.0));
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        let values: Vec<u32> = (1..=200).collect();
        assert_eq!(percentile(&values, 50), Some(100));
        assert_eq!(percentile(&values, 99), Some(198));
        assert_eq!(percentile(&values, 100), Some(200));
        assert_eq!(percentile(&[7], 1), Some(7));
        assert_eq!(percentile(&[], 50), None);
    }

    #[test]
    fn a_ratio_needs_both_sides() {
        assert_eq!(ratio(Some(3.0), Some(2.0)), Some(1.5));
        assert_eq!(ratio(Some(3.0), Some(0.0)), None);
        assert_eq!(ratio(None, Some(2.0)), None);
        assert_eq!(ratio(Some(3.0), None), None);
    }

    #[test]
    fn a_client_that_did_nothing_counts_as_the_slowest() {
        let done = BTreeMap::from([(0, 10), (1, 5), (2, 15)]);
        assert_eq!(slowest_share(&done, 3), Some(0.5));
        assert_eq!(slowest_share(&done, 4), Some(0.0));
        assert_eq!(slowest_share(&BTreeMap::new(), 4), None);
    }
}
