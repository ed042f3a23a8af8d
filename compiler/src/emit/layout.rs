//! A layered drawing of a graph whose edges go from earlier to later nodes: longest-path layers, barycentre ordering,
//! then places by isotonic regression. All in integers, so that a picture is the same on every host.

/// Empty pixels between boxes of a layer.
const GAP_X: i64 = 24;
/// Empty pixels between layers.
const GAP_Y: i64 = 34;
/// Empty pixels around everything.
const MARGIN: i64 = 20;
/// Width that a passing edge takes in a layer.
const LANE: i64 = 10;
/// Sweeps down and up, of ordering and of placing.
const SWEEPS: usize = 8;
/// Barycentres are compared in parts of a position.
const FRACTION: i64 = 1 << 12;

/// A placed box, in pixels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rect {
    /// Left edge.
    pub x: i64,
    /// Upper edge.
    pub y: i64,
    /// Width.
    pub width: i64,
    /// Height.
    pub height: i64,
}

impl Rect {
    /// Whether two boxes share a point.
    pub fn overlaps(&self, other: &Self) -> bool {
        let apart = |a: i64, a_size: i64, b: i64, b_size: i64| a + a_size <= b || b + b_size <= a;
        !apart(self.x, self.width, other.x, other.width) && !apart(self.y, self.height, other.y, other.height)
    }
}

/// Where everything is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Boxes in the order of the nodes.
    pub boxes: Vec<Rect>,
    /// Of each edge, the points that it passes, from the lower edge of its first box to the upper edge of its last.
    /// Between the points 2i and 2i + 1 it is free to curve, from 2i + 1 to 2i + 2 it goes straight down.
    pub routes: Vec<Vec<(i64, i64)>>,
    /// Width of the picture.
    pub width: i64,
    /// Height of the picture.
    pub height: i64,
}

/// A box, or the place where an edge passes a layer.
struct Item {
    width: i64,
    layer: usize,
    above: Vec<usize>,
    below: Vec<usize>,
}

/// Places nodes of given (width, height). Edges are (from, to) with `from < to`; others are not drawn.
pub fn layered(sizes: &[(i64, i64)], edges: &[(usize, usize)]) -> Layout {
    let is_forward = |&(from, to): &(usize, usize)| from < to && to < sizes.len();
    let layers_of = layer_numbers(sizes.len(), &edges.iter().copied().filter(is_forward).collect::<Vec<_>>());
    let item = |(node, &(width, _)): (usize, &(i64, i64))| Item {
        width,
        layer: layers_of[node],
        above: Vec::new(),
        below: Vec::new(),
    };
    let mut items: Vec<Item> = sizes.iter().enumerate().map(item).collect();
    // The lanes of a node's edges, one a layer however many edges pass it.
    let mut lanes: Vec<Vec<usize>> = vec![Vec::new(); sizes.len()];
    for (from, to) in edges.iter().copied().filter(is_forward) {
        let mut last = from;
        for (step, layer) in (layers_of[from] + 1..layers_of[to]).enumerate() {
            if step == lanes[from].len() {
                lanes[from].push(items.len());
                items.push(Item { width: LANE, layer, above: Vec::new(), below: Vec::new() });
                join(&mut items, last, lanes[from][step]);
            }
            last = lanes[from][step];
        }
        join(&mut items, last, to);
    }
    let mut layers: Vec<Vec<usize>> = vec![Vec::new(); items.iter().map(|item| item.layer + 1).max().unwrap_or(0)];
    for (ix, item) in items.iter().enumerate() {
        layers[item.layer].push(ix);
    }
    order(&items, &mut layers);
    let centres = place(&items, &layers);
    let mut tops = Vec::with_capacity(layers.len());
    let mut heights = Vec::with_capacity(layers.len());
    let mut y = MARGIN;
    for layer in &layers {
        let height = layer.iter().filter_map(|&ix| sizes.get(ix)).map(|size| size.1).max().unwrap_or(0);
        tops.push(y);
        heights.push(height);
        y += height + GAP_Y;
    }
    let boxes: Vec<Rect> = sizes
        .iter()
        .enumerate()
        .map(|(ix, &(width, height))| Rect {
            x: centres[ix] - width / 2,
            // In the middle of its layer.
            y: tops[layers_of[ix]] + (heights[layers_of[ix]] - height) / 2,
            width,
            height,
        })
        .collect();
    let routes = edges.iter().map(|edge| {
        let (from, to) = *edge;
        if !is_forward(edge) {
            return Vec::new();
        }
        let mut points = vec![(centres[from], boxes[from].y + boxes[from].height)];
        for (step, layer) in (layers_of[from] + 1..layers_of[to]).enumerate() {
            let x = centres[lanes[from][step]];
            points.extend([(x, tops[layer]), (x, tops[layer] + heights[layer])]);
        }
        points.push((centres[to], boxes[to].y));
        points
    });
    let right = items.iter().zip(&centres).map(|(item, centre)| centre + item.width / 2).max().unwrap_or(0);
    let right = boxes.iter().map(|r| r.x + r.width).max().unwrap_or(0).max(right);
    Layout { routes: routes.collect(), boxes, width: right + MARGIN, height: y - GAP_Y.min(y) + MARGIN }
}

fn join(items: &mut [Item], above: usize, below: usize) {
    if !items[above].below.contains(&below) {
        items[above].below.push(below);
        items[below].above.push(above);
    }
}

/// The longest path to each node; what nothing leads to stands just above its first reader.
fn layer_numbers(n_nodes: usize, edges: &[(usize, usize)]) -> Vec<usize> {
    let mut sorted = edges.to_vec();
    sorted.sort_by_key(|edge| edge.1);
    let (mut layers, mut is_source) = (vec![0; n_nodes], vec![true; n_nodes]);
    for (from, to) in sorted {
        layers[to] = layers[to].max(layers[from] + 1);
        is_source[to] = false;
    }
    for node in (0..n_nodes).filter(|&node| is_source[node]) {
        let first = edges.iter().filter(|edge| edge.0 == node).map(|edge| layers[edge.1]).min();
        layers[node] = first.map_or(0, |first| first - 1);
    }
    layers
}

/// Orders each layer by the middle of its neighbours' positions, and keeps the order with the fewest crossings.
fn order(items: &[Item], layers: &mut Vec<Vec<usize>>) {
    let mut at = vec![0i64; items.len()];
    let number = |at: &mut [i64], layer: &[usize]| {
        for (position, &ix) in layer.iter().enumerate() {
            at[ix] = position as i64;
        }
    };
    layers.iter().for_each(|layer| number(&mut at, layer));
    let mut best = (crossings(items, layers, &at), layers.clone());
    for sweep in 0..SWEEPS {
        let downwards = sweep % 2 == 0;
        for step in 0..layers.len() {
            let layer = if downwards { step } else { layers.len() - 1 - step };
            let key = |&ix: &usize| {
                let near = if downwards { &items[ix].above } else { &items[ix].below };
                match near.len() as i64 {
                    0 => at[ix] * FRACTION,
                    n => near.iter().map(|&other| at[other]).sum::<i64>() * FRACTION / n,
                }
            };
            let mut sorted = layers[layer].clone();
            sorted.sort_by_key(key);
            number(&mut at, &sorted);
            layers[layer] = sorted;
        }
        let n = crossings(items, layers, &at);
        if n < best.0 {
            best = (n, layers.clone());
        }
    }
    *layers = best.1;
}

fn crossings(items: &[Item], layers: &[Vec<usize>], at: &[i64]) -> usize {
    let mut n = 0;
    for layer in layers {
        let lines: Vec<(i64, i64)> =
            layer.iter().flat_map(|&ix| items[ix].below.iter().map(move |&to| (at[ix], at[to]))).collect();
        for (ix, a) in lines.iter().enumerate() {
            n += lines[..ix].iter().filter(|b| (a.0 - b.0) * (a.1 - b.1) < 0).count();
        }
    }
    n
}

/// Centres of all items: each as near to the mean of its neighbours as the order of its layer and the gaps allow.
fn place(items: &[Item], layers: &[Vec<usize>]) -> Vec<i64> {
    let mut centres = vec![0i64; items.len()];
    for layer in layers {
        let wanted: Vec<i64> = vec![0; layer.len()];
        settle(items, layer, &wanted, &mut centres);
    }
    for sweep in 0..2 * SWEEPS {
        let downwards = sweep % 2 == 0;
        for step in 0..layers.len() {
            let layer = &layers[if downwards { step } else { layers.len() - 1 - step }];
            // Neighbours on both sides: with those of one side alone a long chain drifts sidewards.
            let want = |&ix: &usize| {
                let near = items[ix].above.iter().chain(&items[ix].below);
                match (items[ix].above.len() + items[ix].below.len()) as i64 {
                    0 => centres[ix],
                    n => near.map(|&other| centres[other]).sum::<i64>().div_euclid(n),
                }
            };
            let wanted: Vec<i64> = layer.iter().map(want).collect();
            settle(items, layer, &wanted, &mut centres);
        }
    }
    let left = items.iter().zip(&centres).map(|(item, centre)| centre - item.width / 2).min().unwrap_or(0);
    centres.iter_mut().for_each(|centre| *centre += MARGIN - left);
    centres
}

/// Isotonic regression: the places nearest to the wanted ones (in the sum of squares) that keep order and gaps.
fn settle(items: &[Item], layer: &[usize], wanted: &[i64], centres: &mut [i64]) {
    // A run of items that touch: sum of wanted places less their offsets, and how many.
    let mut runs: Vec<(i64, i64)> = Vec::new();
    let mut offsets = Vec::with_capacity(layer.len());
    let mut offset = 0;
    for (at, &ix) in layer.iter().enumerate() {
        if at > 0 {
            let before = &items[layer[at - 1]];
            // Halves are rounded up on both sides, so that no two boxes meet.
            offset += (before.width + 1) / 2 + GAP_X + (items[ix].width + 1) / 2;
        }
        offsets.push(offset);
        let mut run = (wanted[at] - offset, 1);
        while let Some(&(sum, n)) = runs.last()
            && sum * run.1 >= run.0 * n
        {
            run = (run.0 + sum, run.1 + n);
            runs.pop();
        }
        runs.push(run);
    }
    let mut at = 0;
    for (sum, n) in runs {
        for _ in 0..n {
            centres[layer[at]] = sum.div_euclid(n) + offsets[at];
            at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_longest_paths_and_sources_stand_by_their_readers() {
        let edges = [(0, 1), (1, 2), (0, 3), (2, 3), (4, 5), (3, 5)];
        assert_eq!(layer_numbers(6, &edges), [0, 1, 2, 3, 3, 4]);
    }

    #[test]
    fn a_ladder_is_straight_and_crossings_are_undone() {
        // Two chains, the second layer given in the wrong order.
        let layout = layered(&[(40, 20); 4], &[(0, 3), (1, 2)]);
        assert_eq!(layout.boxes[0].x, layout.boxes[3].x);
        assert_eq!(layout.boxes[1].x, layout.boxes[2].x);
        assert!(layout.boxes[0].y < layout.boxes[3].y);
    }

    #[test]
    fn long_edges_pass_beside_boxes() {
        let layout = layered(&[(40, 20); 3], &[(0, 1), (1, 2), (0, 2)]);
        let (middle, pass) = (layout.boxes[1], &layout.routes[2]);
        assert_eq!(pass.len(), 4);
        assert!(pass[1].0 < middle.x || pass[1].0 > middle.x + middle.width, "{pass:?} {middle:?}");
    }
}
