//! Assumes a graph that was lowered, and a limit above [`KEEP`]. Guarantees: no layer sees more than `max` positions. Layers
//! that would see more, see the first [`KEEP`] and the newest others instead, whatever a step holds; a layer with a window
//! of its own that is no longer stays as it was.
//!
//! Runs only where a limit is asked for, before all other passes. In decoding this is mlx-lm's rotating cache; in the chunks
//! of a prompt that cache shows later tokens of a chunk more of the middle and less of the beginning, so that its results
//! depend on the chunk's size.

use ingot_ir::graph::{Graph, Op};
use ingot_ir::handle::Arena;
use ingot_ir::kv::{KvSpec, Window};

/// Positions at a text's beginning that stay visible: mlx-lm's number.
pub const KEEP: u32 = 4;

/// Runs the pass.
pub fn run(graph: &Graph, max: u32) -> Graph {
    let ring = Window { window: max.saturating_sub(KEEP).max(1), keep: KEEP };
    let limited = |window: Window| if window.window == 0 || window.window > max { ring } else { window };
    let mut new = graph.clone();
    new.kv = KvSpec::default();
    for (_, layer) in graph.kv.layers.iter() {
        let group = &graph.kv.groups[layer.group];
        new.kv.add_layer(group.shape, limited(group.window));
    }
    new.values = Arena::default();
    for (_, value) in graph.values.iter() {
        let mut value = value.clone();
        if let Op::Attention { window, .. } = &mut value.op {
            *window = limited(*window);
        }
        new.values.push(value);
    }
    new
}
