//! Small changes to trees of JSON: what a stranger may write into the tables of a plan.

use proptest::prelude::*;
use serde_json::{Value, json};

/// Every value of a tree, as a path of positions.
pub fn places(tree: &Value) -> Vec<Vec<usize>> {
    let mut found = Vec::new();
    visit(tree, &mut Vec::new(), &mut found);
    found
}

fn visit(value: &Value, at: &mut Vec<usize>, found: &mut Vec<Vec<usize>>) {
    found.push(at.clone());
    let children: Vec<&Value> = match value {
        Value::Array(items) => items.iter().collect(),
        Value::Object(fields) => fields.values().collect(),
        _ => Vec::new(),
    };
    for (ix, child) in children.into_iter().enumerate() {
        at.push(ix);
        visit(child, at, found);
        at.pop();
    }
}

/// A value's child by position. Panics if there is none: positions come from [`places`] of the same tree.
pub fn child(value: &mut Value, ix: usize) -> &mut Value {
    match value {
        Value::Array(items) => &mut items[ix],
        Value::Object(fields) => fields.values_mut().nth(ix).expect("a path of this tree"),
        _ => panic!("a path of this tree"),
    }
}

/// Changes one value: numbers to others, lists longer, shorter or turned, the rest to what another place holds.
/// `place` and `other` choose one of as many as they are given.
pub fn mutate(tree: &mut Value, place: &dyn Fn(usize) -> usize, how: u8, number: u64, other: &dyn Fn(usize) -> usize) {
    let paths = places(tree);
    let donor = paths[other(paths.len())].iter().fold(&mut *tree, |value, ix| child(value, *ix)).clone();
    let target = paths[place(paths.len())].iter().fold(&mut *tree, |value, ix| child(value, *ix));
    match target {
        Value::Number(_) => *target = json!(number),
        Value::Bool(set) => *set = !*set,
        Value::Array(items) if !items.is_empty() => {
            let ix = other(items.len());
            match how % 4 {
                0 => drop(items.remove(ix)),
                1 => items.insert(ix, items[ix].clone()),
                2 => items.rotate_left(ix),
                _ => items.truncate(ix),
            }
        }
        _ => *target = donor,
    }
}

/// Numbers that arithmetic is likely to fail on, and others.
pub const EXTREMES: [u64; 14] =
    [0, 1, 2, 3, 255, 256, 65_535, 65_536, 1 << 20, 1 << 28, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 63];

/// Any number, extreme ones more often.
pub fn any_number() -> impl Strategy<Value = u64> {
    prop_oneof![
        3 => prop::sample::select(EXTREMES.to_vec()),
        1 => Just(u64::MAX),
        2 => 0u64..600,
        1 => any::<u32>().prop_map(u64::from),
    ]
}
