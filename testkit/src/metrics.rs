//! Prometheus text, as far as tests ask it something.

/// A scrape.
#[derive(Clone, Debug)]
pub struct Metrics(pub String);

impl Metrics {
    /// The sum of the samples of `name` that have all of `labels`.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        assert!(self.0.contains(&format!("# TYPE {name} ")), "no {name} in\n{}", self.0);
        let wanted: Vec<_> =
            labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
        let samples = self.0.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let (labels, value) = rest.rsplit_once(' ')?;
            let own = labels.is_empty() || labels.starts_with('{');
            let fits = own && wanted.iter().all(|label| labels.contains(label));
            fits.then(|| value.parse::<f64>().ok())?
        });
        samples.sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_over_the_labels_that_are_not_asked_for() {
        let text = "# TYPE a counter\na{x=\"1\",y=\"1\"} 2\na{x=\"1\",y=\"2\"} 3\na{x=\"2\"} 4\n\
                    # TYPE a_b gauge\na_b 7\n";
        let metrics = Metrics(text.to_owned());
        assert!((metrics.value("a", &[("x", "1")]) - 5.0).abs() < 1e-9);
        assert!((metrics.value("a_b", &[]) - 7.0).abs() < 1e-9);
    }
}
