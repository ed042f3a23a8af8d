//! Results as one page: tables, and plots as inline SVG. It refers to nothing outside of itself.

use super::Test;
use super::report::{self, Report};
use super::row::Row;
use std::fmt::Write;

/// The page.
pub(super) fn page(report: &Report) -> String {
    let mut body = format!("<h1>{}</h1>\n<p>{}</p>\n", escape(&report.model), escape(&report.device));
    let ceilings = report.ceilings;
    let _ = writeln!(
        body,
        "<p>Limits measured in this run: reading {:.1} GB/s, f32 {:.0} GFLOP/s. Peak memory {}.</p>",
        ceilings.read_gb_s,
        ceilings.gflop_s,
        ingot::Bytes(report.peak_bytes)
    );
    body += &table(report);
    for plot in [over_context(report), over_batch(report)].into_iter().flatten() {
        body += &plot.svg();
    }
    body += &roofline(report).svg();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>ingot bench: {}</title>\n\
         <style>{STYLE}</style>\n<body>\n{body}</body>\n</html>\n",
        escape(&report.model)
    )
}

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em;color:#222}\
    table{border-collapse:collapse;font-size:13px}td,th{border:1px solid #ccc;padding:.3em .6em;text-align:right}\
    td:first-child,th:first-child{text-align:left}svg{display:block;margin:1.5em 0}svg text{font:12px system-ui,sans-serif}";

/// Colours of series, told apart by most eyes.
const COLOURS: [&str; 6] = ["#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf"];

fn table(report: &Report) -> String {
    let heads: String = report::COLUMNS.iter().map(|name| format!("<th>{}</th>", escape(name))).collect();
    let mut text = format!("<table>\n<tr>{heads}</tr>\n");
    for row in &report.rows {
        let cells: String = report::cells(row).iter().map(|cell| format!("<td>{}</td>", escape(cell))).collect();
        let _ = writeln!(text, "<tr>{cells}</tr>");
        for peer in &row.peers {
            let speed = peer.speed.map_or("-".into(), |speed| format!("{:.1} ± {:.1}", speed.mean, speed.sd));
            let ratio = peer.ratio(&row.speed).map_or(String::new(), |ratio| format!("ingot: {ratio:.2} x"));
            let _ = writeln!(text, "<tr><td>{}</td><td>{speed}</td><td>{ratio}</td></tr>", escape(&peer.name));
        }
    }
    text + "</table>\n"
}

/// A named line of points.
struct Series {
    name: String,
    points: Vec<(f64, f64)>,
}

/// Lines over axes.
struct Plot {
    title: &'static str,
    x_name: &'static str,
    y_name: &'static str,
    series: Vec<Series>,
    /// Whether both axes are logarithmic.
    log: bool,
}

/// Decode speeds, one line a value of `key`, over `x`.
fn lines(rows: &[Row], x: impl Fn(u32, u32) -> u32, key: impl Fn(u32, u32, u32) -> String) -> Vec<Series> {
    let mut series: Vec<Series> = Vec::new();
    for row in rows {
        let Test::Decode { n_tokens, depth, batch } = row.test else { continue };
        let mut add = |name: String, y: f64| {
            let point = (f64::from(x(depth, batch)), y);
            match series.iter_mut().find(|line| line.name == name) {
                Some(line) => line.points.push(point),
                None => series.push(Series { name, points: vec![point] }),
            }
        };
        add(key(n_tokens, depth, batch), row.speed.mean);
        for peer in &row.peers {
            if let Some(speed) = peer.speed {
                add(format!("{}, {}", peer.name, key(n_tokens, depth, batch)), speed.mean);
            }
        }
    }
    series.iter_mut().for_each(|line| line.points.sort_by(|a, b| a.0.total_cmp(&b.0)));
    series
}

fn over_context(report: &Report) -> Option<Plot> {
    let series = lines(&report.rows, |depth, _| depth, |n, _, batch| format!("decode {n} x {batch}"));
    Plot::of("Decode speed over context", "tokens in the cache", series)
}

fn over_batch(report: &Report) -> Option<Plot> {
    let series = lines(&report.rows, |_, batch| batch, |n, depth, _| format!("decode {n} at {depth}"));
    Plot::of("Decode speed over batch", "sequences", series)
}

/// Arithmetic a byte against arithmetic a second, below the lines of both limits.
fn roofline(report: &Report) -> Plot {
    let ceilings = report.ceilings;
    let point = |row: &Row| {
        let intensity = row.per_token.flops / row.per_token.bytes.max(1.0);
        Series { name: row.test.name(), points: vec![(intensity.max(1e-3), row.gflop_s.max(1e-3))] }
    };
    let mut series: Vec<Series> = report.rows.iter().map(point).collect();
    let xs = series.iter().flat_map(|line| line.points.iter().map(|point| point.0));
    let ridge = ceilings.gflop_s / ceilings.read_gb_s.max(1e-9);
    let least = xs.clone().fold(ridge, f64::min) / 2.0;
    let most = xs.fold(ridge, f64::max) * 4.0;
    let roof = |x: f64| (x, (x * ceilings.read_gb_s).min(ceilings.gflop_s));
    series.insert(0, Series { name: "limit".into(), points: vec![roof(least), roof(ridge), roof(most)] });
    let (title, x_name, y_name) = ("Roofline", "FLOP a byte", "GFLOP/s");
    Plot { title, x_name, y_name, series, log: true }
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 380.0;
/// Room for the axes' numbers on the left, the names of series on the right, titles above and below.
const LEFT: f64 = 70.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;

impl Plot {
    /// Speeds, if at least one line has two points.
    fn of(title: &'static str, x_name: &'static str, series: Vec<Series>) -> Option<Self> {
        let is_line = series.iter().any(|line| line.points.len() > 1);
        is_line.then_some(Self { title, x_name, y_name: "tokens/s", series, log: false })
    }

    fn svg(&self) -> String {
        let points = || self.series.iter().flat_map(|line| line.points.iter().copied());
        let xs = Axis::of(points().map(|point| point.0), self.log);
        let ys = Axis::of(points().map(|point| point.1), self.log);
        let x = |value: f64| LEFT + xs.share(value) * (WIDTH - LEFT - RIGHT);
        let y = |value: f64| HEIGHT - BOTTOM - ys.share(value) * (HEIGHT - TOP - BOTTOM);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n"
        );
        let text = |x: f64, y: f64, anchor: &str, words: &str| {
            let words = escape(words);
            format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>\n")
        };
        svg += &text(LEFT, 20.0, "start", self.title);
        svg += &text((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 10.0, "middle", self.x_name);
        svg += &text(LEFT - 8.0, TOP - 8.0, "end", self.y_name);
        for tick in xs.ticks() {
            let (at, low) = (x(tick), HEIGHT - BOTTOM);
            let _ = writeln!(svg, "<path d=\"M{at:.1} {TOP}V{low}\" stroke=\"#ddd\"/>");
            svg += &text(at, low + 16.0, "middle", &short(tick));
        }
        for tick in ys.ticks() {
            let (at, right) = (y(tick), WIDTH - RIGHT);
            let _ = writeln!(svg, "<path d=\"M{LEFT} {at:.1}H{right}\" stroke=\"#ddd\"/>");
            svg += &text(LEFT - 8.0, at + 4.0, "end", &short(tick));
        }
        for (ix, line) in self.series.iter().enumerate() {
            let colour = COLOURS[ix % COLOURS.len()];
            let path: Vec<String> = line.points.iter().map(|p| format!("{:.1} {:.1}", x(p.0), y(p.1))).collect();
            let _ =
                writeln!(svg, "<path d=\"M{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>", path.join("L"));
            for p in &line.points {
                let (cx, cy) = (x(p.0), y(p.1));
                let title = escape(&format!("{}: {}, {}", line.name, short(p.0), short(p.1)));
                let _ = writeln!(
                    svg,
                    "<circle cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"3.5\" fill=\"{colour}\"><title>{title}</title></circle>"
                );
            }
            let (at, down) = (WIDTH - RIGHT + 12.0, TOP + 8.0 + 18.0 * ix as f64);
            let _ = writeln!(
                svg,
                "<rect x=\"{at}\" y=\"{:.1}\" width=\"10\" height=\"10\" fill=\"{colour}\"/>",
                down - 9.0
            );
            svg += &text(at + 16.0, down, "start", &line.name);
        }
        svg + "</svg>\n"
    }
}

/// A range of numbers along an edge.
struct Axis {
    least: f64,
    most: f64,
    log: bool,
}

impl Axis {
    /// Around some numbers: from zero, or between powers of ten.
    fn of(values: impl Iterator<Item = f64> + Clone, log: bool) -> Self {
        let most = values.clone().fold(0.0, f64::max);
        if !log {
            return Self { least: 0.0, most: if most > 0.0 { most * 1.05 } else { 1.0 }, log };
        }
        let least = values.filter(|value| *value > 0.0).fold(f64::INFINITY, f64::min).min(1e12);
        let (low, high) = (least.log10().floor(), most.max(least).log10().ceil());
        Self { least: 10f64.powf(low), most: 10f64.powf(high.max(low + 1.0)), log }
    }

    /// Where a number lies, from 0 to 1.
    fn share(&self, value: f64) -> f64 {
        let at = |x: f64| if self.log { x.max(1e-12).log10() } else { x };
        (at(value) - at(self.least)) / (at(self.most) - at(self.least))
    }

    /// Round numbers to be written beside the edge.
    fn ticks(&self) -> Vec<f64> {
        if self.log {
            let (low, high) = (self.least.log10().round() as i32, self.most.log10().round() as i32);
            return (low..=high).map(|power| 10f64.powi(power)).collect();
        }
        // A step of 1, 2 or 5 times a power of ten, five to eleven of them.
        let rough = self.most / 5.0;
        let power = 10f64.powf(rough.log10().floor());
        let step = [5.0, 2.0, 1.0].iter().map(|n| n * power).find(|step| *step <= rough).unwrap_or(power);
        (0..).map(|n| f64::from(n) * step).take_while(|tick| *tick <= self.most).collect()
    }
}

/// A number in few letters.
fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        n if n >= 1000.0 && (n / 1000.0).fract() == 0.0 => format!("{}k", value / 1000.0),
        n if n >= 100.0 => format!("{value:.0}"),
        _ => format!("{}", (value * 1000.0).round() / 1000.0),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        let axis = Axis::of([3.0, 617.0].into_iter(), false);
        assert_eq!(axis.ticks(), [0.0, 100.0, 200.0, 300.0, 400.0, 500.0, 600.0]);
        let axis = Axis::of([0.3, 42.0].into_iter(), true);
        assert_eq!(axis.ticks().len(), 4);
        assert!((axis.share(axis.least), axis.share(axis.most)) == (0.0, 1.0) && axis.least == 0.1);
        for odd in [vec![], vec![0.0], vec![5.0]] {
            for log in [false, true] {
                let axis = Axis::of(odd.iter().copied(), log);
                assert!(axis.share(5.0).is_finite() && axis.ticks().len() < 20, "{odd:?}");
            }
        }
    }

    #[test]
    fn a_plot_needs_a_line() {
        let line = |n: usize| vec![Series { name: "a<b".into(), points: vec![(1.0, 2.0); n] }];
        assert!(Plot::of("t", "x", line(1)).is_none());
        let svg = Plot::of("t", "x", line(2)).unwrap().svg();
        assert!(svg.starts_with("<svg ") && svg.contains("a&lt;b") && !svg.contains("NaN"), "{svg}");
    }
}
