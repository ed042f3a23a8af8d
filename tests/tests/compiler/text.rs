//! `parse(print(x)) == x`, and what the parsers say of what they cannot read.

use crate::support::{DECODE, OPTIONS, PREFILL, kernels, targets};
use ingot_compiler::{TargetProfile, compile, pipeline};
use ingot_ir::IrError;
use ingot_ir::graph::Graph;
use ingot_ir::kernel::KernelGraph;
use ingot_ir::plan::Plan;
use ingot_ir::size::{Dims, ExprPool};
use ingot_ir::weight::{Format, KFormat};
use ingot_tests::random;
use proptest::prelude::*;

#[test]
fn every_op_and_source_reads_back() {
    let text = "\
graph \"a name: with = marks \\\"and\\\" \\\\ # more\"
g0 = kv_group heads=2 k=16 v=16
g1 = kv_group heads=1 k=32 v=16 latent=true window=8 keep=2
l0 = kv_layer g0
l1 = kv_layer g1
w0 = tensor \"embed table\" : 16 x 32 affine4g32_bf16
w1 = tensor model.layers.0.norm.weight layout=vector : 32 x 1 bf16
w2 = inline 1.0,0.1,1e-10,3.4028235e38,-0.5,0.0,1.0,1.0 : 8 x 1 f32
w3 = rows w0 first=8 layout=packed : 8 x 32 affine4g32_bf16
w4 = stack w0 w3 : 24 x 32 affine4g32_bf16
w5 = interleave w3 w3 layout=stored : 16 x 32 affine4g32_bf16
w6 = tensor bias : 16 x 1 f16
w7 = inline 1.0,0.5,0.25,0.125,1.0,0.5,0.25,0.125,1.0,0.5,0.25,0.125,1.0,0.5,0.25,0.125 : 16 x 1 f32
v0 = embed w0 w3 : tokens x 32
v1 = rms_norm v0 w1 eps=1e-6 : tokens x 32
v2 = linear v1 w5 bias=w6 : tokens x 16
v3 = concat v2 v2 : tokens x 32
v4 = rope v3 w2 heads=2 head_dim=16 : tokens x 32
v5 = rope v3 w2 heads=1 head_dim=32 rot_dim=16 scale=1.25 : tokens x 32
v6 = kv_write v4 v3 layer=l0 : tokens x 0
v7 = kv_write v5 layer=l1 : tokens x 0
v8 = attention v4 v6 layer=l0 heads=2 scale=0.25 : tokens x 32
v9 = attention v5 v7 layer=l1 heads=1 scale=0.125 softcap=30 window=8 keep=2 : tokens x 16
v10 = add v8 v3 : tokens x 32
v11 = mul v10 v10 : tokens x 32
v12 = silu v11 : tokens x 32
v13 = gelu v12 : tokens x 32
v14 = silu_mul_pairs v13 : tokens x 16
v15 = slice v13 at=8 : tokens x 8
v16 = gather_rows v14 : rows x 16
v17 = argmax v16 : rows x 1
output v16 v17
";
    let graph: Graph = text.parse().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(graph.to_string(), text);
    assert_eq!(graph.name, "a name: with = marks \"and\" \\ # more");
}

#[test]
fn comments_and_blank_lines_are_skipped() {
    let graph: Graph = "# a comment\n\ngraph g # another\n  w0 = tensor \"a # b\" : 8 x 32 bf16\nv0 = embed w0 : tokens x 32\noutput v0\n".parse().expect("parses");
    assert!(graph.to_string().contains("\"a # b\""));
}

proptest! {
    #![proptest_config(crate::support::cases(64))]

    #[test]
    fn any_name_reads_back(name in any::<String>(), tensor in "\\PC*") {
        let mut graph = random::Shape::llama().graph();
        graph.name = name;
        graph.weights[ingot_ir::weight::WeightId(0)].source = ingot_ir::weight::Source::Tensor(tensor);
        let read: Graph = graph.to_string().parse().expect("its own text");
        prop_assert_eq!(read, graph);
    }

    #[test]
    fn graphs_read_back(graph in random::graph(), target in targets()) {
        let after = pipeline::graph_passes(&graph, &target, "assign_layout").expect("passes");
        for graph in [graph, after] {
            let read: Graph = graph.to_string().parse().expect("its own text");
            prop_assert_eq!(read, graph);
        }
    }

    #[test]
    fn kernel_graphs_read_back(graph in random::llama_graph(), target in targets(), decode in any::<bool>()) {
        let kernels = kernels(&graph, &target, if decode { DECODE } else { PREFILL }, decode);
        let read: KernelGraph = kernels.to_string().parse().expect("its own text");
        // Expressions that nothing uses are not printed, so the pools may differ.
        prop_assert_eq!(read.to_string(), kernels.to_string());
        prop_assert_eq!(&read.slabs, &kernels.slabs);
        let origins = |k: &KernelGraph| k.nodes.as_slice().iter().map(|n| (n.spec.clone(), n.operands.clone(), n.origin.clone())).collect::<Vec<_>>();
        prop_assert_eq!(origins(&read), origins(&kernels));
    }

    #[test]
    fn expressions_read_back(ops in proptest::collection::vec((0u8..3, 1u32..9, 0usize..4), 0..8), tokens in 0u32..1000, tiles in 0u32..1000) {
        use ingot_ir::size::{Dim, Expr};
        let mut pool = ExprPool::default();
        let mut ids = vec![pool.dim(Dim::Tokens), pool.dim(Dim::Tiles), pool.constant(7), pool.dim(Dim::Rows)];
        for (kind, n, other) in ops {
            let (a, b) = (ids[ids.len() - 1], ids[other]);
            ids.push(match kind {
                0 => pool.add(Expr::Add(a, b)),
                1 => pool.times(a, n),
                _ => pool.ceil_div(a, n),
            });
        }
        let last = ids[ids.len() - 1];
        let dims = Dims { tokens, sequences: 3, rows: 2, tiles, filtered: 1 };
        let mut other = ExprPool::default();
        let text = pool.show(last).to_string();
        let read = other.parse(&text).expect("its own text");
        prop_assert_eq!(other.eval(read, &dims), pool.eval(last, &dims));
        prop_assert_eq!(other.show(read).to_string(), text);
    }

    /// Whatever stands in a file, reading it ends with a value or an error.
    #[test]
    fn no_text_panics(lines in proptest::collection::vec(any_line(), 0..12)) {
        let text = lines.join("\n");
        let _ = text.parse::<Graph>();
        let _ = text.parse::<KernelGraph>();
        let _ = text.parse::<Plan>();
    }

    /// Any text at all, and any text after a head that opens each form.
    #[test]
    fn no_characters_panic(text in "(\\PC|[ \t\r\n=:\"#\\\\]){0,120}", head in 0usize..4) {
        let heads = ["", "graph g\n", "kernels bucket=1,1,1,1\n", "plan m version=2 target=t cpu=true vocab=1 context=1 page=1 max_binding=1 kv=f32\n"];
        let text = format!("{}{text}", heads[head]);
        let _ = text.parse::<Graph>();
        let _ = text.parse::<KernelGraph>();
        let _ = text.parse::<Plan>();
    }

    /// A graph's text with one word exchanged is read or refused, and what is read verifies.
    #[test]
    fn no_exchanged_word_panics(graph in random::graph(), at in any::<prop::sample::Index>(), word in any_word()) {
        let text = graph.to_string();
        let spots: Vec<(usize, &str)> = text.match_indices([' ', '\n']).collect();
        let ix = at.index(spots.len() - 1);
        let broken = format!("{}{}{}", &text[..=spots[ix].0], word, &text[spots[ix + 1].0..]);
        if let Ok(graph) = broken.parse::<Graph>() {
            prop_assert!(graph.verify().is_ok());
        }
    }

    #[test]
    fn no_exchanged_word_of_a_plan_panics(shape in random::shape(), at in any::<prop::sample::Index>(), word in any_word()) {
        let plan = compile(&random::Shape { n_layers: 1, ..shape }.graph(), &TargetProfile::cpu(), OPTIONS).expect("compiles");
        let text = format!("{plan:#}");
        let spots: Vec<usize> = text.match_indices(|c: char| " \n=<>@+,".contains(c)).map(|(at, _)| at).collect();
        let ix = at.index(spots.len() - 1);
        let broken = format!("{}{}{}", &text[..=spots[ix]], word, &text[spots[ix + 1]..]);
        if let Ok(plan) = broken.parse::<Plan>() {
            prop_assert!(plan.verify().is_ok());
        }
    }
}

fn any_word() -> impl Strategy<Value = String> {
    let known = [
        "v0",
        "v1",
        "v99",
        "w0",
        "w1",
        "g0",
        "g9",
        "l0",
        "l7",
        "s0",
        "k0",
        "p0",
        "a0",
        "b0",
        "d0",
        "0",
        "1",
        "7",
        "4294967295",
        "99999999999",
        "-1",
        "1.0",
        "NaN",
        "inf",
        "tokens",
        "rows",
        "linear",
        "embed",
        "attention",
        "kv_write",
        "rope",
        "affine4g0_bf16",
        "affine0g32_f16",
        "bf16",
        "layer=l9",
        "heads=0",
        "=",
        ":",
        "\"",
        "x",
        "",
        "[",
        "]",
    ];
    prop_oneof![4 => prop::sample::select(known.to_vec()).prop_map(str::to_owned), 1 => "[a-z0-9=:\"\\\\#@+<>. ]{0,8}"]
}

fn any_line() -> impl Strategy<Value = String> {
    let known = [
        "graph g",
        "g0 = kv_group heads=0 k=0 v=0",
        "g0 = kv_group heads=1 k=32 v=32",
        "l0 = kv_layer g0",
        "l0 = kv_layer g7",
        "w0 = tensor a : 8 x 32 bf16",
        "w0 = inline 1.0 : 1 x 1 f32",
        "v0 = embed w0 : tokens x 32",
        "v1 = kv_write v0 v0 layer=l0 : tokens x 0",
        "v2 = attention v0 v1 layer=l0 heads=1 scale=1.0 : tokens x 32",
        "output v0",
        "kernels bucket=1,1,1,1",
        "s0 = slab v0 : tokens x 32",
        "k0 = embed out>s0 rows=tokens grid=1 origin=v0",
        "plan m version=2 target=t cpu=true vocab=1 context=1 page=1 max_binding=1 kv=f32",
        "a0 = arena 256",
        "b0 = weight layout=stored : 0 x 0 affine4g32_f16",
        "x0 = variant bounds=1,1,1,1 q_tile=1",
        "d0 = dispatch p0 grid=1 origin=v0",
        "p0 = embed rows=tokens",
    ];
    prop_oneof![3 => prop::sample::select(known.to_vec()).prop_map(str::to_owned), 1 => proptest::collection::vec(any_word(), 0..8).prop_map(|words| words.join(" "))]
}

fn refuses<T: std::str::FromStr<Err = IrError>>(text: &str) -> String {
    match text.parse::<T>() {
        Ok(_) => panic!("this was read:\n{text}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn attributes_that_nothing_knows_are_named() {
    let graph = |line: &str| {
        refuses::<Graph>(&format!("graph g\nw0 = tensor a : 8 x 32 bf16\nv0 = embed w0 : tokens x 32\n{line}"))
    };
    let kernels =
        |line: &str| refuses::<KernelGraph>(&format!("kernels bucket=1,1,1,1\ns0 = slab v0 : tokens x 32\n{line}"));
    let plan = |line: &str| {
        let head = "plan m version=2 target=t cpu=true vocab=8 context=16 batch=1 page=16 max_binding=1024 kv=f32";
        refuses::<Plan>(&format!("{head}\n{line}"))
    };
    let said = [
        refuses::<Graph>("graph g colour=red"),
        graph("w1 = tensor b stride=2 : 8 x 32 bf16"),
        graph("v1 = silu v0 fast=true : tokens x 32"),
        graph("v1 = slice v0 at=0 at=1 : tokens x 8"),
        graph("g0 = kv_group heads=1 k=8 v=8 heds=2"),
        graph("output v0 first=1"),
        refuses::<KernelGraph>("kernels bucket=1,1,1,1 size=3"),
        refuses::<KernelGraph>("kernels bucket=1,x,1,1,1"),
        kernels("s1 = slab v0 at=8 : tokens x 32"),
        kernels("k0 = embed out>s0 rows=tokens tier=plain grid=1 origin=v0"),
        kernels("k0 = embed out>s0 rows=tokens K=1 K=2 grid=1 origin=v0"),
        plan("a0 = arena 256 at=0"),
        plan("b0 = weight a[0+8] layout=stored packed=true : 8 x 32 bf16"),
        plan("p0 = embed rows=tokens grid=1"),
        plan("p0 = embed rows=tokens workgroup=1,x,1,1"),
        plan("x0 = variant bounds=1,1,1,1 q_tile=1 rows=2"),
        plan("x0 = variant bounds=1,1,1,1 q_tile=1\nd0 = dispatch p0 grid=1 origin=v0 K=4"),
    ];
    insta::assert_snapshot!(said.join("\n"), @r#"
    line 1: `graph` has no attribute colour=
    line 4: `tensor` has no attribute stride=
    line 4: `silu` has no attribute fast=
    line 4: at= stands twice
    line 4: `kv_group` has no attribute heds=
    line 4: `output` has no attribute first=
    line 1: `kernels` has no attribute size=
    line 1: expected tokens,sequences,rows,tiles, found "1,x,1,1,1"
    line 3: `slab` has no attribute at=
    line 3: `embed` has no attribute tier=
    line 3: K= stands twice
    line 2: `arena` has no attribute at=
    line 2: `weight` has no attribute packed=
    line 2: `embed` has no attribute grid=
    line 2: expected workgroup=X,Y,Z
    line 2: `variant` has no attribute rows=
    line 3: `dispatch` has no attribute K=
    "#);
}

#[test]
fn sizes_that_overflow_are_refused() {
    let wide = "w0 = tensor a : 4294967295 x 8 f32\ng0 = kv_group heads=1 k=8 v=8\nv0 = embed w0 : tokens x 8\n";
    let concat = format!("{wide}v1 = linear v0 w0 : tokens x 4294967295\nv2 = concat v1 v1 : tokens x 4294967294");
    assert_eq!(refuses::<Graph>(&concat), "line 5: v2: concat: the parts have more than 2^32 columns");
    let weight = refuses::<Graph>("w0 = tensor a : 4294967295 x 4294967295 f32");
    assert_eq!(weight, "w0: 4294967295 x 4294967295 numbers are too many");
}

/// A line may have any number of attributes without harm.
#[test]
fn very_many_attributes_are_refused() {
    let many: String = (0..200).map(|n| format!(" A{n}=1")).collect();
    let text =
        format!("kernels bucket=1,1,1,1\ns0 = slab v0 : tokens x 32\nk0 = embed out>s0 rows=tokens{many} grid=1");
    assert_eq!(refuses::<KernelGraph>(&text), "line 3: `embed` has no attribute A127=");
}

#[test]
fn what_the_graph_parser_says() {
    let say = |line: &str| {
        refuses::<Graph>(&format!("graph g\nw0 = tensor a : 8 x 32 bf16\nv0 = embed w0 : tokens x 32\n{line}"))
    };
    let lines = [
        "v1 = linear v0",
        "v1 = linear v0 x0 : tokens x 8",
        "v1 = linear v0 w0",
        "v1 = linear v0 w0 : tokens x 9",
        "v2 = linear v0 w0 : tokens x 8",
        "v1 = frobnicate v0 : tokens x 8",
        "v1 = rms_norm v0 w0 : tokens x 32",
        "v1 = slice v0 at=many : tokens x 8",
        "v1 = attention v0 v0 heads=1 scale=1.0 : tokens x 32",
        "w1 = tensor b : 8 x 32 affine7g32_f16",
        "w1 = conjure b : 8 x 32 bf16",
        "w1 = tensor b layout=sideways : 8 x 32 bf16",
        "w1 = inline 1.0,two : 2 x 1 f32",
        "g1 = kv_group heads=1 k=1 v=1",
        "frobnicate",
        "v1 = silu \"v0 : tokens x 32",
        "= silu v0 : tokens x 32",
        "v1 = silu v0 :",
        "v1 = slice v0 at= : tokens x 8",
        "v1 = slice at=0 v0 : tokens x 8",
        "w1 =",
    ];
    let said: Vec<String> = lines.iter().map(|line| format!("{line}\n  {}", say(line))).collect();
    insta::assert_snapshot!(said.join("\n"), @r#"
    v1 = linear v0
      line 4: expected `: ROWS x COLUMNS`
    v1 = linear v0 x0 : tokens x 8
      line 4: expected wN, found "x0"
    v1 = linear v0 w0
      line 4: expected `: ROWS x COLUMNS`
    v1 = linear v0 w0 : tokens x 9
      line 4: v1 computes tokens x 8, not tokens x 9
    v2 = linear v0 w0 : tokens x 8
      line 4: expected v1 = ..., found v2
    v1 = frobnicate v0 : tokens x 8
      line 4: unknown op `frobnicate`
    v1 = rms_norm v0 w0 : tokens x 32
      line 4: `rms_norm` needs eps=
    v1 = slice v0 at=many : tokens x 8
      line 4: at=many is no valid value
    v1 = attention v0 v0 heads=1 scale=1.0 : tokens x 32
      line 4: `attention` needs layer=
    w1 = tensor b : 8 x 32 affine7g32_f16
      line 4: expected `: ROWS x COLUMNS FORMAT`
    w1 = conjure b : 8 x 32 bf16
      line 4: unknown weight source `conjure`
    w1 = tensor b layout=sideways : 8 x 32 bf16
      line 4: unknown layout sideways
    w1 = inline 1.0,two : 2 x 1 f32
      line 4: "two" is no number
    g1 = kv_group heads=1 k=1 v=1
      line 4: expected g0 = ..., found g1
    frobnicate
      line 4: unknown line `frobnicate`
    v1 = silu "v0 : tokens x 32
      line 4: a string without its closing quote
    = silu v0 : tokens x 32
      line 4: `=` without a name before it
    v1 = silu v0 :
      line 4: `:` without a type after it
    v1 = slice v0 at= : tokens x 8
      line 4: an attribute without a value
    v1 = slice at=0 v0 : tokens x 8
      line 4: an operand after an attribute
    w1 =
      line 4: a line without an op
    "#);
}

#[test]
fn what_the_kernel_graph_parser_says() {
    let say =
        |line: &str| refuses::<KernelGraph>(&format!("kernels bucket=1,1,1,1\ns0 = slab v0 : tokens x 32\n{line}"));
    let lines = [
        "kernels bucket=1,1",
        "s1 = slab v0",
        "s1 = slab s0 : tokens x 3",
        "k0 = conjure out>s0 rows=tokens grid=1 origin=v0",
        "k0 = embed out>s0 grid=1 origin=v0",
        "k0 = embed out>q0 rows=tokens grid=1 origin=v0",
        "k0 = embed aside>s0 rows=tokens grid=1 origin=v0",
        "k0 = embed out>s0 rows=tokens grid=\"ceil(tokens / 0)\" origin=v0",
        "k0 = embed out>s0 rows=tokens grid=\"apples * 2\" origin=v0",
        "k0 = embed out>s0 rows=tokens grid=\"(tokens\" origin=v0",
        "k0 = embed out>s0 rows=tokens grid=\"tokens tokens\" origin=v0",
        "k0 = embed out>s0 rows=tokens grid=1 origin=w0",
        "k0 = embed out>s0 rows=tokens epilogue=bias(3) grid=1 origin=v0",
        "k0 = embed out>s0 rows=tokens format=bf17 grid=1 origin=v0",
        "k0 = embed out>s0 rows=tokens K=1.5 grid=1 origin=v0",
    ];
    let said: Vec<String> = lines.iter().map(|line| format!("{line}\n  {}", say(line))).collect();
    insta::assert_snapshot!(said.join("\n"), @r#"
    kernels bucket=1,1
      line 3: expected tokens,sequences,rows,tiles, found "1,1"
    s1 = slab v0
      line 3: expected `: ROWS x COLUMNS`
    s1 = slab s0 : tokens x 3
      line 3: expected vN, found "s0"
    k0 = conjure out>s0 rows=tokens grid=1 origin=v0
      line 3: unknown template `conjure`
    k0 = embed out>s0 grid=1 origin=v0
      line 3: expected rows=tokens or rows=wanted
    k0 = embed out>q0 rows=tokens grid=1 origin=v0
      line 3: "out>q0" is no operand
    k0 = embed aside>s0 rows=tokens grid=1 origin=v0
      line 3: "aside>s0" is no operand
    k0 = embed out>s0 rows=tokens grid="ceil(tokens / 0)" origin=v0
      line 3: expected a positive divisor
    k0 = embed out>s0 rows=tokens grid="apples * 2" origin=v0
      line 3: expected a number or a dimension, found "apples"
    k0 = embed out>s0 rows=tokens grid="(tokens" origin=v0
      line 3: expected `)`
    k0 = embed out>s0 rows=tokens grid="tokens tokens" origin=v0
      line 3: unexpected " tokens" after an expression
    k0 = embed out>s0 rows=tokens grid=1 origin=w0
      line 3: expected vN in origin, found "w0"
    k0 = embed out>s0 rows=tokens epilogue=bias(3) grid=1 origin=v0
      line 3: epilogue=bias(3) is no valid value
    k0 = embed out>s0 rows=tokens format=bf17 grid=1 origin=v0
      line 3: format=bf17 is no valid value
    k0 = embed out>s0 rows=tokens K=1.5 grid=1 origin=v0
      line 3: K=1.5 is no valid value
    "#);
}

#[test]
fn what_the_plan_parser_says() {
    let say = |line: &str| {
        refuses::<Plan>(&format!(
            "plan m version=2 target=t cpu=true vocab=8 context=16 batch=1 page=16 max_binding=1024 kv=f32\n{line}"
        ))
    };
    let lines = [
        "plan m",
        "plan m version=2 target=t cpu=true vocab=8 context=16 batch=1 page=16 max_binding=1024 kv=f64",
        "a0 = arena lots",
        "b0 = weight a[0+8] layout=stored",
        "b0 = weight a : 8 x 32 bf16",
        "b0 = weight a[0+8] : 8 x 32 bf16",
        "d0 = dispatch p0 grid=1 origin=v0",
        "p0 = conjure rows=tokens",
        "p0 = embed out>2 rows=tokens",
        "p0 = embed rows=tokens workgroup=1,1",
        "x1 = variant bounds=1,1,1,1 q_tile=1",
        "x0 = variant bounds=1,1,1,1 q_tile=1\nd0 = dispatch p0 out>a0@0 grid=1 origin=v0",
    ];
    let said: Vec<String> = lines.iter().map(|line| format!("{line}\n  {}", say(line))).collect();
    insta::assert_snapshot!(said.join("\n"), @r#"
    plan m
      line 2: `plan` needs version=
    plan m version=2 target=t cpu=true vocab=8 context=16 batch=1 page=16 max_binding=1024 kv=f64
      line 2: expected kv=f16, f32, or e.g. affine8g64
    a0 = arena lots
      line 2: expected a size
    b0 = weight a[0+8] layout=stored
      line 2: expected `: ROWS x COLUMNS FORMAT`
    b0 = weight a : 8 x 32 bf16
      line 2: expected layout=
    b0 = weight a[0+8] : 8 x 32 bf16
      line 2: expected layout=
    d0 = dispatch p0 grid=1 origin=v0
      line 2: a dispatch before any variant
    p0 = conjure rows=tokens
      line 2: unknown template `conjure`
    p0 = embed out>2 rows=tokens
      line 2: "out>2" is no binding
    p0 = embed rows=tokens workgroup=1,1
      line 2: expected workgroup=X,Y,Z
    x1 = variant bounds=1,1,1,1 q_tile=1
      line 2: expected x0 = ..., found x1
    x0 = variant bounds=1,1,1,1 q_tile=1
    d0 = dispatch p0 out>a0@0 grid=1 origin=v0
      line 3: "out>a0@0" is no operand
    "#);
}

#[test]
fn formats_read_back() {
    for text in ["f32", "f16", "bf16", "affine4g64_bf16", "affine3g128_f32", "affine6g32_f16"] {
        assert_eq!(Format::parse(text).expect("a format").to_string(), text);
    }
    for text in ["affine1g32_f16", "mxfp4", "mxfp8", "nvfp4", "nvfp4_global", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k"] {
        assert_eq!(Format::parse(text).expect("a format").to_string(), text);
    }
    for format in [KFormat::Iq4Nl, KFormat::Iq4Xs].map(Format::K) {
        assert_eq!(Format::parse(&format.to_string()), Some(format));
    }
    for text in
        ["", "f64", "affine4", "affine4g64", "affine4g0_bf16", "affine7g32_bf16", "affine4g48_bf16", "affine4g64_f64"]
    {
        assert_eq!(Format::parse(text), None, "{text}");
    }
}
