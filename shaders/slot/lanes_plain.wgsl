// Lanes that work on one sum are 32 neighbours of the workgroup; sums go through 4 * WG bytes of workgroup memory.

struct Lanes {
    @builtin(local_invocation_id) id: vec3<u32>,
}

const N_LANES = 32u;

var<workgroup> lane_values: array<f32, WG>;

fn lane_of(lanes: Lanes) -> u32 { return lanes.id.x % N_LANES; }
fn n_lanes_of(lanes: Lanes) -> u32 { return N_LANES; }
fn team_of(lanes: Lanes) -> u32 { return lanes.id.x / N_LANES; }
fn n_teams_of(lanes: Lanes) -> u32 { return WG / N_LANES; }

// The sum over the team's lanes, for its lane 0 only. Must be called in uniform control flow.
fn team_sum(value: f32, lanes: Lanes) -> f32 {
    lane_values[lanes.id.x] = value;
    workgroupBarrier();
    var sum = value;
    if lane_of(lanes) == 0u {
        for (var i = 1u; i < N_LANES; i++) { sum += lane_values[lanes.id.x + i]; }
    }
    workgroupBarrier();
    return sum;
}
