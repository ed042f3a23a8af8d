//! Boxes and curves as an SVG that stands alone: no scripts, no fonts of its own, colours for light and dark screens.

use super::layout::layered;
use std::fmt::Write;

/// Pixels of a character of the monospace font, times two.
const CHAR_WIDTH_2: i64 = 15;
const LINE_HEIGHT: i64 = 16;
const PADDING: i64 = 8;

/// What a box stands for; its colour.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Look {
    /// A matrix product.
    Matrix,
    /// Attention and what feeds its cache.
    Attention,
    /// A normalization.
    Norm,
    /// Table look-ups, sampling, moves of rows.
    Rows,
    /// Element-wise.
    Element,
    /// Outside of what is drawn.
    Outside,
}

impl Look {
    fn class(self) -> &'static str {
        match self {
            Self::Matrix => "matrix",
            Self::Attention => "attention",
            Self::Norm => "norm",
            Self::Rows => "rows",
            Self::Element => "element",
            Self::Outside => "outside",
        }
    }
}

/// A box.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shown {
    /// The handle, which becomes the element's id.
    pub id: String,
    /// Lines of text, the first one bold.
    pub lines: Vec<String>,
    /// What is told on hovering: the IR's own text.
    pub title: String,
    /// Its colour.
    pub look: Look,
}

// Plain rules, no variables: many viewers know no more.
const STYLE: &str = "\
svg { color-scheme: light dark; }
text { font: 12px ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace; text-anchor: middle; fill: #1c2430; }
.head { font-weight: bold; }
.page { fill: #ffffff; }
.box { stroke: #7d8896; }
.matrix { fill: #dbe8fb; } .attention { fill: #fbe3d3; } .norm { fill: #e3f3dc; }
.rows { fill: #efe4f8; } .element { fill: #f4f1d8; }
.outside { fill: #eef0f2; stroke-dasharray: 4 3; }
.edge { fill: none; stroke: #7d8896; stroke-width: 1.5; marker-end: url(#arrow); }
.tip { fill: #7d8896; }
@media (prefers-color-scheme: dark) {
text { fill: #e4e9f0; }
.page { fill: #14181e; }
.matrix { fill: #1f3a5f; } .attention { fill: #5a3620; } .norm { fill: #28452a; }
.rows { fill: #432f57; } .element { fill: #4a4520; } .outside { fill: #23282f; }
}
";

/// The picture of boxes and of edges (from, to) between them, `from < to`.
pub fn draw(title: &str, shown: &[Shown], edges: &[(usize, usize)]) -> String {
    let layout = layered(&shown.iter().map(size).collect::<Vec<_>>(), edges);
    let (width, height) = (layout.width, layout.height);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\">\n\
         <title>{}</title>\n<style>\n{STYLE}</style>\n\
         <defs><marker id=\"arrow\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"7\" markerHeight=\"7\" \
         orient=\"auto\"><path class=\"tip\" d=\"M0 0L8 4L0 8z\"/></marker></defs>\n\
         <rect class=\"page\" width=\"{width}\" height=\"{height}\"/>\n",
        escape(title)
    );
    for route in layout.routes.iter().filter(|route| !route.is_empty()) {
        let _ = writeln!(svg, "<path class=\"edge\" d=\"{}\"/>", path(route));
    }
    for (node, rect) in shown.iter().zip(&layout.boxes) {
        let _ = write!(
            svg,
            "<g id=\"{}\"><title>{}</title><rect class=\"box {}\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" rx=\"6\"/>",
            escape(&node.id),
            escape(&node.title),
            node.look.class(),
            rect.x,
            rect.y,
            rect.width,
            rect.height,
        );
        for (ix, line) in node.lines.iter().enumerate() {
            let y = rect.y + PADDING + LINE_HEIGHT * ix as i64 + 12;
            let head = if ix == 0 { " class=\"head\"" } else { "" };
            let _ = write!(svg, "<text{head} x=\"{}\" y=\"{y}\">{}</text>", rect.x + rect.width / 2, escape(line));
        }
        svg.push_str("</g>\n");
    }
    svg.push_str("</svg>\n");
    svg
}

/// Width and height of a box.
fn size(node: &Shown) -> (i64, i64) {
    let chars = node.lines.iter().map(|line| line.chars().count()).max().unwrap_or(0) as i64;
    (chars * CHAR_WIDTH_2 / 2 + 2 * PADDING, node.lines.len() as i64 * LINE_HEIGHT + 2 * PADDING)
}

/// Curves through the gaps, straight lines through the layers.
fn path(points: &[(i64, i64)]) -> String {
    let mut d = format!("M{} {}", points[0].0, points[0].1);
    for pair in points.windows(2).enumerate() {
        let (ix, [(x0, y0), (x, y)]) = (pair.0, [pair.1[0], pair.1[1]]);
        let _ = if ix % 2 == 0 {
            let middle = (y0 + y) / 2;
            write!(d, "C{x0} {middle} {x} {middle} {x} {y}")
        } else {
            write!(d, "L{x} {y}")
        };
    }
    d
}

/// XML's own characters as entities; control characters, which XML cannot hold, as a replacement.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(c),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}
