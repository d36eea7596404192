//! Figures as text, in Prometheus' format.

use cairn_proto::monitor::{Figure, Report, Value};
use prometheus::TextEncoder;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

/// Its content type.
pub const CONTENT: &str = prometheus::TEXT_FORMAT;

/// The figures of a process, and whether it is well.
///
/// # Errors
/// A figure cannot be put in this format.
pub fn text(process: &str, report: &Report) -> Result<String, prometheus::Error> {
    let well = u64::from(report.unwell.is_none());
    let healthy = Figure::gauge("cairn_healthy", "Whether the process serves, as /health says it", well);
    let build = Figure::gauge("cairn_build_info", "1; the version is in the label", 1);
    let own = [healthy.of("process", process), build.of("version", env!("CARGO_PKG_VERSION"))];
    let mut families: Vec<MetricFamily> = Vec::new();
    for figure in own.iter().chain(&report.figures) {
        let family = match families.iter_mut().find(|f| f.name() == figure.name) {
            Some(family) => family,
            None => {
                families.push(family(figure));
                families.last_mut().ok_or(prometheus::Error::AlreadyReg)?
            }
        };
        family.mut_metric().push(metric(figure));
    }
    TextEncoder::new().encode_to_string(&families)
}

fn family(figure: &Figure) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(figure.name.to_owned());
    family.set_help(figure.help.to_owned());
    family.set_field_type(match figure.value {
        Value::Counter(_) => MetricType::COUNTER,
        Value::Gauge(_) => MetricType::GAUGE,
        Value::Histogram { .. } => MetricType::HISTOGRAM,
    });
    family
}

fn metric(figure: &Figure) -> Metric {
    let label = |(name, value): &(&str, String)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value(value.clone());
        pair
    };
    let mut metric = Metric::from_label(figure.labels.iter().map(label).collect());
    match &figure.value {
        Value::Counter(n) => {
            let mut counter = Counter::default();
            counter.set_value(*n as f64);
            metric.set_counter(counter);
        }
        Value::Gauge(now) => {
            let mut gauge = Gauge::default();
            gauge.set_value(*now);
            metric.set_gauge(gauge);
        }
        Value::Histogram { buckets, sum, count } => {
            let bucket = |(bound, count): &(f64, u64)| {
                let mut bucket = Bucket::default();
                bucket.set_upper_bound(*bound);
                bucket.set_cumulative_count(*count);
                bucket
            };
            let mut histogram = Histogram::default();
            histogram.set_bucket(buckets.iter().map(bucket).collect());
            histogram.set_sample_sum(*sum);
            histogram.set_sample_count(*count);
            metric.set_histogram(histogram);
        }
    }
    metric
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_one_name_stand_under_one_heading() {
        let took = Value::Histogram { buckets: vec![(0.001, 2), (0.002, 3)], sum: 0.5, count: 4 };
        let figures = vec![
            Figure::counter("cairn_read_bytes_total", "Read", 7),
            Figure::gauge("cairn_disk_free_bytes", "Free", 5).of("disk", "/a\"b"),
            Figure::gauge("cairn_disk_free_bytes", "Free", 6).of("disk", "/c"),
            Figure { name: "cairn_took_seconds", help: "Took", labels: Vec::new(), value: took },
        ];
        let text = text("master", &Report { figures, ..Report::default() }).unwrap();
        let expected = [
            "cairn_healthy{process=\"master\"} 1",
            "# TYPE cairn_read_bytes_total counter",
            "cairn_read_bytes_total 7",
            "cairn_disk_free_bytes{disk=\"/a\\\"b\"} 5",
            "cairn_took_seconds_bucket{le=\"0.002\"} 3",
            "cairn_took_seconds_bucket{le=\"+Inf\"} 4",
            "cairn_took_seconds_sum 0.5",
            "cairn_took_seconds_count 4",
        ];
        for line in expected {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        assert_eq!(text.matches("# TYPE cairn_disk_free_bytes gauge").count(), 1);
    }
}
