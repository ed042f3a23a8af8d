//! The comment above a kernel's source: its line in the plan, what uses it, and the ops that it covers.

use ingot_ir::graph::Graph;
use ingot_ir::handle::Handle;
use ingot_ir::plan::{DispatchId, PipelineId, Plan};
use ingot_ir::weight::WeightId;
use std::fmt::Write;

/// Characters of a weight; inline numbers would fill pages.
const MAX_CHARS: usize = 160;

/// The comment of a kernel; `graphs` are those of the plan's variants. Each line begins with `//`.
pub(super) fn of(plan: &Plan, graphs: &[Graph], id: PipelineId) -> String {
    let mut note = String::new();
    let mut line = |indent: usize, text: &str| {
        let _ = writeln!(note, "// {:indent$}{}", "", plain(text));
    };
    line(0, &plan.kernel_line(id));
    let mut first: Option<(usize, DispatchId)> = None;
    let mut total = 0;
    let mut uses = Vec::new();
    for (ix, (variant, v)) in plan.variants.iter().enumerate() {
        let own = (v.first..v.first + v.n_dispatches).map(DispatchId);
        let using: Vec<DispatchId> = own.filter(|d| plan.dispatches[*d].kernel == id).collect();
        let Some(&at) = using.first() else { continue };
        first.get_or_insert((ix, at));
        total += using.len();
        let tokens =
            if v.bounds.tokens == 1 { "one token".into() } else { format!("up to {} tokens", v.bounds.tokens) };
        uses.push(format!("{} in {variant} ({tokens})", using.len()));
    }
    let plural = if total == 1 { "" } else { "es" };
    line(0, &format!("used by {total} dispatch{plural}: {}", uses.join(", ")));
    let Some((variant, dispatch)) = first else { return note };
    line(0, &plan.dispatch_line(dispatch));
    let Some(graph) = graphs.get(variant) else { return note };
    line(0, &format!("covers, in {dispatch}:"));
    let mut told: Vec<WeightId> = Vec::new();
    for value in plan.dispatches[dispatch].origin.iter().filter(|value| value.ix() < graph.values.len()) {
        line(2, &graph.value_line(*value));
        for weight in graph.values[*value].op.weights() {
            if !told.contains(&weight) {
                told.push(weight);
                line(4, &cut(&graph.weight_line(weight)));
            }
        }
    }
    note
}

/// A line of a comment. A name from a checkpoint may hold anything: line ends of any alphabet become spaces, and a
/// backslash at the end goes, which in C++ would draw the next line into the comment.
fn plain(text: &str) -> String {
    let blank = |c: char| if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') { ' ' } else { c };
    let text: String = text.chars().map(blank).collect();
    text.trim_end_matches(['\\', ' ']).to_owned()
}

fn cut(text: &str) -> String {
    if text.chars().count() <= MAX_CHARS {
        return text.to_owned();
    }
    format!("{}...", text.chars().take(MAX_CHARS - 3).collect::<String>())
}
