// RMS normalization of an input that its producer has multiplied by the norm's weight, and of whose squares it has left
// SQUARE_PARTS sums a row: the factor multiplies the finished sum. Interface: slot/prologue_none.

import package::slot::lanes::{Lanes, lane_of, n_lanes_of, team_of, n_teams_of, team_sum};

@group(0) @binding(2) var<storage, read> squares: array<f32>;

const HAS_SQUARES = false;
// Loads in flight.
const AHEAD = 4u;

// Least size of a subgroup.
const LEAST_LANES = 4u;

// [team][row of x], and the number of teams.
var<workgroup> team_squares: array<f32, WG / LEAST_LANES * M_MAX>;
var<private> n_square_teams: u32;

// Teams share the sums; the barrier after the products shows everyone all.
fn prologue_begin(x_first: u32, x_last: u32, lanes: Lanes) {
    n_square_teams = n_teams_of(lanes);
    let own = team_of(lanes) * n_lanes_of(lanes) + lane_of(lanes);
    let stride = n_teams_of(lanes) * n_lanes_of(lanes);
    for (var m = 0u; m < M_MAX; m++) {
        let row = min(x_first + m, x_last) * SQUARE_PARTS;
        var sum = 0.0;
        for (var first = own; first < SQUARE_PARTS; first += AHEAD * stride) {
            var parts: array<f32, AHEAD>;
            for (var i = 0u; i < AHEAD; i++) { parts[i] = squares[row + min(first + i * stride, SQUARE_PARTS - 1u)]; }
            for (var i = 0u; i < AHEAD; i++) { sum += select(0.0, parts[i], first + i * stride < SQUARE_PARTS); }
        }
        let whole = team_sum(sum, lanes);
        if lane_of(lanes) == 0u { team_squares[team_of(lanes) * M_MAX + m] = whole; }
    }
}
fn prologue_weight(quad: u32) -> vec4<f32> { return vec4<f32>(1.0); }
fn prologue_square(x: vec4<f32>) -> f32 { return 0.0; }
fn prologue_factor(m: u32, squares: f32) -> f32 {
    var sum = 0.0;
    for (var team = 0u; team < n_square_teams; team++) { sum += team_squares[team * M_MAX + m]; }
    return inverseSqrt(sum / f32(K) + EPS);
}
