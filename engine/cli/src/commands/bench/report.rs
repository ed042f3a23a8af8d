//! Results as a table, as JSON and as comma-separated values.

use super::Test;
use super::row::{Row, Spread};
use ingot::{Bytes, Ceilings, Model, PlanFacts};
use serde_json::{Value, json};

/// All measurements of a run.
pub(super) struct Report {
    pub model: String,
    pub device: String,
    pub facts: PlanFacts,
    pub ceilings: Ceilings,
    pub rows: Vec<Row>,
    pub peak_bytes: u64,
}

impl Test {
    /// `prefill 512`, `decode 128 x 4 at 1000`.
    pub(super) fn name(self) -> String {
        match self {
            Self::Prefill { n_tokens } => format!("prefill {n_tokens}"),
            Self::Decode { n_tokens, depth, batch } => {
                let batch = if batch == 1 { String::new() } else { format!(" x {batch}") };
                let depth = if depth == 0 { String::new() } else { format!(" at {depth}") };
                format!("decode {n_tokens}{batch}{depth}")
            }
        }
    }
}

/// The table's columns.
pub(super) const COLUMNS: [&str; 10] = [
    "test",
    "tokens/s",
    "first token, ms",
    "between tokens, ms (p50, p90, p99)",
    "MB a token",
    "of read stream",
    "launches a step",
    "submits a token",
    "submit, µs a step",
    "device idle",
];

impl Report {
    pub(super) fn new(model: &Model, name: String, ceilings: Ceilings) -> Self {
        let device = model.device().to_owned();
        Self { model: name, device, facts: model.facts(), ceilings, rows: Vec::new(), peak_bytes: 0 }
    }

    /// What is measured, and the table's head.
    pub(super) fn heading(&self) -> String {
        let Ceilings { read_gb_s, gflop_s } = self.ceilings;
        format!(
            "{} on {}\na token: {} kernel launches, {} of weights ({} kernels in the plan)\n\
             limits here: reading {read_gb_s:.1} GB/s, f32 {gflop_s:.0} GFLOP/s\n\n| {} |\n|{}",
            self.model,
            self.device,
            self.facts.n_dispatches,
            Bytes(self.facts.weight_bytes),
            self.facts.n_kernels,
            COLUMNS.join(" | "),
            "---|".repeat(COLUMNS.len()),
        )
    }

    pub(super) fn object(&self) -> Value {
        json!({
            "model": self.model,
            "device": self.device,
            "dispatches_per_token": self.facts.n_dispatches,
            "weight_bytes_per_token": self.facts.weight_bytes,
            "kernels": self.facts.n_kernels,
            "context": self.facts.max_context,
            "read_gb_per_s": self.ceilings.read_gb_s,
            "gflop_per_s": self.ceilings.gflop_s,
            "peak_memory_bytes": self.peak_bytes,
            "results": self.rows.iter().map(object).collect::<Vec<_>>(),
        })
    }

    /// One line a measurement below a line of names; what a measurement does not have is empty.
    pub(super) fn csv(&self) -> String {
        let rows: Vec<Value> = self.rows.iter().map(object).collect();
        let mut text = String::new();
        let names: Vec<&str> = rows.first().and_then(Value::as_object).map_or(Vec::new(), |first| {
            first.iter().filter(|(_, value)| !value.is_array()).map(|(name, _)| name.as_str()).collect()
        });
        let peers: Vec<&str> =
            self.rows.first().map_or(Vec::new(), |row| row.peers.iter().map(|peer| peer.name.as_str()).collect());
        let mut line = |cells: Vec<String>| text += &format!("{}\n", cells.join(","));
        let fixed = ["model", "device"].iter().chain(&names).map(|name| (*name).to_owned());
        line(fixed.chain(peers.iter().map(|name| format!("{name}_tokens_per_s"))).collect());
        for (row, object) in self.rows.iter().zip(&rows) {
            let mut cells = vec![quoted(&self.model), quoted(&self.device)];
            cells.extend(names.iter().map(|name| cell(&object[*name])));
            cells.extend(row.peers.iter().map(|peer| peer.speed.map_or(String::new(), |speed| speed.mean.to_string())));
            line(cells);
        }
        text
    }
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => quoted(text),
        other => other.to_string(),
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

/// The table's cells; what a measurement does not have is a dash.
pub(super) fn cells(row: &Row) -> Vec<String> {
    let or_dash = |cell: Option<String>| cell.unwrap_or_else(|| "-".into());
    let Spread { mean, sd } = row.first_token_s;
    vec![
        row.test.name(),
        format!("{:.1} ± {:.1}", row.speed.mean, row.speed.sd),
        format!("{:.1} ± {:.1}", mean * 1e3, sd * 1e3),
        or_dash(row.between_s.map(|[p50, p90, p99]| format!("{:.2}, {:.2}, {:.2}", p50 * 1e3, p90 * 1e3, p99 * 1e3))),
        format!("{:.1}", row.per_token.bytes / 1e6),
        format!("{:.0} %", row.read_share * 100.0),
        row.n_dispatches.to_string(),
        or_dash(row.submits.map(|n| format!("{n:.2}"))),
        or_dash(row.submit_s.map(|s| format!("{:.0}", s * 1e6))),
        or_dash(row.idle.map(|share| format!("{:.1} %", share * 100.0))),
    ]
}

/// A row of the table, and below it what other engines gave.
pub(super) fn markdown(row: &Row) -> String {
    let mut text = format!("| {} |", cells(row).join(" | "));
    for peer in &row.peers {
        text += &match (peer.speed, peer.ratio(&row.speed)) {
            (Some(Spread { mean, sd }), Some(ratio)) => {
                format!("\n| - {} | {mean:.1} ± {sd:.1}; ingot is {ratio:.2} times as fast |", peer.name)
            }
            _ => format!("\n| - {} | does not measure this |", peer.name),
        };
    }
    text
}

fn object(row: &Row) -> Value {
    let (n_tokens, depth, batch) = match row.test {
        Test::Prefill { n_tokens } => (n_tokens, 0, 1),
        Test::Decode { n_tokens, depth, batch } => (n_tokens, depth, batch),
    };
    let between = |ix: usize| row.between_s.map(|between| between[ix]);
    let peers = row.peers.iter().map(|peer| {
        json!({
            "name": peer.name,
            "tokens_per_s": peer.speed.map(|speed| speed.mean),
            "tokens_per_s_sd": peer.speed.map(|speed| speed.sd),
            "ratio": peer.ratio(&row.speed),
        })
    });
    json!({
        "test": row.test.name(),
        "tokens": n_tokens,
        "depth": depth,
        "batch": batch,
        "tokens_per_s": row.speed.mean,
        "tokens_per_s_sd": row.speed.sd,
        "first_token_s": row.first_token_s.mean,
        "first_token_s_sd": row.first_token_s.sd,
        "between_tokens_p50_s": between(0),
        "between_tokens_p90_s": between(1),
        "between_tokens_p99_s": between(2),
        "bytes_per_token": row.per_token.bytes,
        "flops_per_token": row.per_token.flops,
        "share_of_read_stream": row.read_share,
        "gflop_per_s": row.gflop_s,
        "dispatches_per_step": row.n_dispatches,
        "submits_per_token": row.submits,
        "submit_s_per_step": row.submit_s,
        "device_idle": row.idle,
        "peers": peers.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_named_by_what_they_do() {
        assert_eq!(Test::Prefill { n_tokens: 512 }.name(), "prefill 512");
        assert_eq!(Test::Decode { n_tokens: 128, depth: 0, batch: 1 }.name(), "decode 128");
        assert_eq!(Test::Decode { n_tokens: 128, depth: 1000, batch: 4 }.name(), "decode 128 x 4 at 1000");
    }

    #[test]
    fn cells_of_text_are_quoted() {
        assert_eq!(cell(&json!("a \"b\", c")), "\"a \"\"b\"\", c\"");
        assert_eq!((cell(&json!(1.5)), cell(&Value::Null)), ("1.5".into(), String::new()));
    }
}
