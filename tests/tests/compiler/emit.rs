//! Pictures are well-formed, complete and the same every time; kernels' sources name what they cover.

use crate::support::{OPTIONS, cases};
use ingot_compiler::emit::{self, Content, File, Language, layout, picture, svg};
use ingot_compiler::{Stage, TargetProfile, compile};
use ingot_ir::graph::Graph;
use ingot_ir::weight::{Source, WeightId};
use ingot_tests::random::{self, Shape};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// An element's name, attributes and depth.
type Element = (String, BTreeMap<String, String>, usize);

/// The elements of an XML document without namespaces, comments and CDATA; a message if it is not well-formed.
fn elements(xml: &str) -> Result<Vec<Element>, String> {
    let mut open: Vec<String> = Vec::new();
    let mut found: Vec<Element> = Vec::new();
    let mut rest = xml;
    while let Some(at) = rest.find('<') {
        check_text(&rest[..at])?;
        if open.is_empty() && !rest[..at].trim().is_empty() {
            return Err(format!("text outside of the root: {:?}", &rest[..at]));
        }
        let end = rest[at..].find('>').ok_or("a tag without `>`")? + at;
        let tag = &rest[at + 1..end];
        rest = &rest[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            if open.pop().as_deref() != Some(name) {
                return Err(format!("</{name}> closes nothing"));
            }
            continue;
        }
        let (tag, closed) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
        let (name, mut attrs) = tag.split_once(' ').unwrap_or((tag, ""));
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric()) {
            return Err(format!("a tag named {name:?}"));
        }
        if open.is_empty() && !found.is_empty() {
            return Err("two roots".into());
        }
        let mut read = BTreeMap::new();
        while !attrs.trim().is_empty() {
            let (key, after) = attrs.trim_start().split_once("=\"").ok_or(format!("an attribute in {tag:?}"))?;
            let (value, after) = after.split_once('"').ok_or(format!("an open attribute in {tag:?}"))?;
            check_text(value)?;
            if read.insert(key.to_owned(), value.to_owned()).is_some() {
                return Err(format!("{key} twice in {tag:?}"));
            }
            attrs = after;
        }
        found.push((name.to_owned(), read, open.len()));
        if !closed {
            open.push(name.to_owned());
        }
    }
    if open.is_empty() && rest.trim().is_empty() { Ok(found) } else { Err(format!("{open:?} left open")) }
}

/// Character data: entities are whole, and characters are those of XML.
fn check_text(text: &str) -> Result<(), String> {
    for (at, _) in text.match_indices('&') {
        let known = ["&amp;", "&lt;", "&gt;", "&quot;"];
        if !known.iter().any(|entity| text[at..].starts_with(entity)) {
            return Err(format!("a bare & in {text:?}"));
        }
    }
    match text.chars().find(|c| (c.is_control() && !"\n\t".contains(*c)) || *c == '\u{ffff}') {
        Some(c) => Err(format!("{c:?} in {text:?}")),
        None => Ok(()),
    }
}

#[test]
fn the_checker_finds_what_is_not_xml() {
    for text in ["<a>", "<a></b>", "<a>&</a>", "<a b=\"1\" b=\"2\"/>", "<a/><a/>", "<a b=1/>", "x<a/>", "<a>\u{1}</a>"]
    {
        assert!(elements(text).is_err(), "{text:?}");
    }
    assert_eq!(elements("<a b=\"1 &lt; 2\"><c/>x</a>\n").map(|found| found.len()), Ok(2));
}

/// Ids of the boxes drawn, with whether they are outside of what was asked for; checks form and that none overlap.
fn boxes(svg: &str) -> Result<Vec<(String, bool)>, TestCaseError> {
    let elements = elements(svg).map_err(TestCaseError::fail)?;
    let (mut ids, mut rects) = (Vec::new(), Vec::new());
    let mut group = String::new();
    for (name, attrs, _) in &elements {
        if name == "g" {
            group = attrs["id"].clone();
        }
        let class = attrs.get("class").map_or("", String::as_str);
        if name == "rect" && class.starts_with("box") {
            let n = |key: &str| attrs[key].parse::<i64>().expect("a whole number");
            rects.push(layout::Rect { x: n("x"), y: n("y"), width: n("width"), height: n("height") });
            ids.push((group.clone(), class.contains("outside")));
        }
    }
    let root = &elements[0].1;
    let (width, height) = (root["width"].parse::<i64>().expect("a width"), root["height"].parse().expect("a height"));
    for (ix, a) in rects.iter().enumerate() {
        prop_assert!(a.x >= 0 && a.y >= 0 && a.x + a.width <= width && a.y + a.height <= height, "{:?}", ids[ix]);
        for (other, b) in rects[..ix].iter().enumerate() {
            prop_assert!(!a.overlaps(b), "{:?} and {:?} overlap", ids[ix], ids[other]);
        }
    }
    let distinct: BTreeSet<_> = ids.iter().map(|(id, _)| id).collect();
    prop_assert_eq!(distinct.len(), ids.len(), "an id stands twice");
    Ok(ids)
}

fn text(file: &File) -> &str {
    match &file.content {
        Content::Text(text) => text,
        Content::Binary(_) => panic!("{} is binary", file.name),
    }
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn pictures_show_every_node(graph in random::graph(), target in crate::support::targets()) {
        for stage in [Stage::Graph("lower"), Stage::Graph("assign_layout"), Stage::Kernels("alias")] {
            let Ok(files) = emit::pictures(&graph, &target, OPTIONS, stage, None) else { continue };
            prop_assert_eq!(&files, &emit::pictures(&graph, &target, OPTIONS, stage, None).expect("drawn before"));
            for file in &files {
                let drawn = boxes(text(file))?;
                prop_assert!(drawn.iter().all(|(_, outside)| !outside));
                if stage == Stage::Graph("lower") {
                    prop_assert_eq!(drawn.len(), graph.values.len());
                }
            }
        }
    }

    /// The layers and what is of none are the whole, and each node is drawn once.
    #[test]
    fn layers_are_parts_of_the_whole(shape in random::shape()) {
        let graph = shape.graph();
        let n_layers = picture::n_layers(&graph);
        prop_assert_eq!(n_layers, shape.n_layers);
        let mut seen = BTreeSet::new();
        for layer in 0..n_layers {
            for (id, outside) in boxes(&picture::graph(&graph, Some(layer)))? {
                prop_assert!(outside || seen.insert(id.clone()), "{} is of two layers", id);
            }
        }
        let layers = picture::layers(&graph);
        let none: Vec<_> = graph.values.iter().filter(|(id, _)| layers[*id].is_none()).map(|(_, v)| v.op.name()).collect();
        prop_assert_eq!(seen.len() + none.len(), graph.values.len());
        prop_assert!(none.contains(&"embed") && none.contains(&"argmax") && none.len() <= 7, "{:?}", none);
    }

    /// Any boxes and edges: nothing overlaps, and the same input gives the same picture.
    #[test]
    fn no_boxes_overlap(
        sizes in proptest::collection::vec((1i64..300, 1i64..90), 1..24),
        edges in proptest::collection::vec((0usize..24, 0usize..24), 0..60),
    ) {
        let layout = layout::layered(&sizes, &edges);
        prop_assert_eq!(&layout, &layout::layered(&sizes, &edges));
        for (ix, a) in layout.boxes.iter().enumerate() {
            prop_assert_eq!((a.width, a.height), sizes[ix]);
            prop_assert!(layout.boxes[..ix].iter().all(|b| !a.overlaps(b)));
        }
        for (edge, route) in edges.iter().zip(&layout.routes) {
            prop_assert_eq!(route.is_empty(), edge.0 >= edge.1 || edge.1 >= sizes.len());
            prop_assert!(route.windows(2).all(|pair| pair[0].1 <= pair[1].1), "an edge goes up");
        }
    }

    #[test]
    fn any_name_is_escaped(name in any::<String>(), tensor in any::<String>()) {
        let mut graph = Shape::llama().graph();
        graph.name = name;
        graph.weights[WeightId(0)].source = Source::Tensor(tensor);
        prop_assert_eq!(boxes(&picture::graph(&graph, None))?.len(), graph.values.len());
    }
}

#[test]
fn a_picture_tells_op_shape_and_weight() {
    let graph = Shape::llama().graph();
    let svg = picture::graph(&graph, Some(0));
    for part in [">v2 linear<", ">tokens x 64<", ">0.q<", "prefers-color-scheme: dark", "llama, layer 0"] {
        assert!(svg.contains(part), "{part} is not in\n{svg}");
    }
    let files =
        emit::pictures(&graph, &TargetProfile::vulkan(), OPTIONS, Stage::Plan, None).expect("the plan's kernels");
    assert_eq!(files[0].name, "alias_x0.svg");
    assert!(text(&files[0]).contains("matvec") && text(&files[0]).contains("first rms_norm"));
    let error = emit::pictures(&graph, &TargetProfile::vulkan(), OPTIONS, Stage::Plan, Some(1)).expect_err("one layer");
    assert_eq!(error.to_string(), "the model has no layer 1; it has 1, counted from 0");
}

#[test]
fn nothing_to_draw_is_a_picture_too() {
    let svg = svg::draw("nothing", &[], &[]);
    assert!(elements(&svg).is_ok(), "{svg}");
}

/// A graph whose names would end a comment if they could.
fn unruly() -> Graph {
    let mut graph = Shape::llama().graph();
    graph.weights[WeightId(0)].source = Source::Tensor("a\nb\u{2028}c */ @compute \\".into());
    graph
}

#[test]
fn every_kernel_is_printed_with_the_ops_that_it_covers() {
    let (graph, target) = (unruly(), TargetProfile::vulkan());
    let plan = compile(&graph, &target, OPTIONS).expect("compiles");
    let wgsl = emit::kernels(&graph, &target, OPTIONS, Language::Wgsl).expect("kernels");
    let msl = emit::kernels(&graph, &target, OPTIONS, Language::Msl).expect("kernels");
    let spirv = emit::kernels(&graph, &target, OPTIONS, Language::Spirv).expect("kernels");
    assert_eq!((wgsl.len(), msl.len(), spirv.len()), (plan.kernels.len(), plan.kernels.len(), plan.kernels.len() + 1));
    for (ix, (id, kernel)) in plan.kernels.iter().enumerate() {
        let (shown, metal) = (text(&wgsl[ix]), text(&msl[ix]));
        assert_eq!(wgsl[ix].name, format!("{id}.wgsl"));
        assert!(shown.ends_with(&kernel.wgsl) && shown.starts_with(&format!("// {}", plan.kernel_line(id))), "{shown}");
        assert!(ingot_shaders::reflect::parse(shown).is_ok(), "{shown}");
        assert!(metal.contains("kernel void main_") && metal.starts_with("// p"), "{metal}");
        let n = plan.dispatches.as_slice().iter().filter(|dispatch| dispatch.kernel == id).count();
        assert!(shown.contains(&format!("// used by {n} dispatch")), "{shown}");
        let Content::Binary(bytes) = &spirv[ix].content else { panic!("{} is text", spirv[ix].name) };
        assert_eq!((spirv[ix].name.clone(), &bytes[..4]), (format!("{id}.spv"), &[3, 2, 0x23, 7][..]));
    }
    let ops: BTreeSet<_> =
        wgsl.iter().flat_map(|file| text(file).lines()).filter(|l| l.starts_with("//   v")).collect();
    for op in ["embed", "rms_norm", "linear", "rope", "kv_write", "attention", "silu_mul_pairs", "argmax"] {
        assert!(ops.iter().any(|line| line.contains(&format!("= {op} "))), "{op} is covered by no kernel: {ops:?}");
    }
    let notes = text(spirv.last().expect("notes"));
    assert!(spirv.last().is_some_and(|file| file.name == "kernels.txt") && notes.contains("= attention "), "{notes}");
    let error = emit::kernels(&graph, &TargetProfile::cpu(), OPTIONS, Language::Msl).expect_err("native code");
    assert!(error.to_string().contains("native code"), "{error}");
}
