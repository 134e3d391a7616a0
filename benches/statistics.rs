//! How the interleaved benches play their blocks, and what they say of them.

/// Has every contestant play once in each block, in reversed order in every other one: what came of
/// each, block by block.
pub(crate) fn interleave<T, E>(
    contestants: usize,
    blocks: u32,
    mut play: impl FnMut(usize) -> Result<T, E>,
) -> Result<Vec<Vec<T>>, E> {
    let mut played: Vec<Vec<T>> = (0..contestants).map(|_| Vec::new()).collect();
    for block in 0..blocks {
        for place in 0..contestants {
            let index = if block % 2 == 1 { contestants - 1 - place } else { place };
            played[index].push(play(index)?);
        }
    }
    Ok(played)
}

/// Sorts, and gives the median.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    tare_stats::compare::blocks::median(values).expect("times are finite")
}

/// The exact order-statistic interval of the median at 95 % or more, and its coverage: the count of
/// values below the true median is binomial with p = 1/2, whatever the distribution (David and
/// Nagaraja, *Order Statistics*, section 7.1). `sorted` must be sorted. None below six values,
/// which cannot reach 95 %.
pub(crate) fn median_interval(sorted: &[f64]) -> Option<(f64, f64, f64)> {
    let n = sorted.len();
    // The probability that at most `rank` values are below the median, grown term by term.
    let mut term = 0.5f64.powi(i32::try_from(n).ok()?);
    let mut below = term;
    let mut best = None;
    for rank in 0..n / 2 {
        let coverage = 1.0 - 2.0 * below;
        if coverage < 0.95 {
            break;
        }
        best = Some((sorted[rank], sorted[n - 1 - rank], coverage));
        #[expect(clippy::cast_precision_loss, reason = "blocks are few")]
        let ratio = (n - rank) as f64 / (rank + 1) as f64;
        term *= ratio;
        below += term;
    }
    best
}
