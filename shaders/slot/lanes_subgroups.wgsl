// Lanes that work on one sum are a subgroup, of whatever size. WG is a power of two, as subgroup sizes are: either all
// subgroups are full, or there is one of WG lanes.

struct Lanes {
    @builtin(subgroup_invocation_id) lane: u32,
    @builtin(subgroup_size) n_lanes: u32,
    @builtin(subgroup_id) team: u32,
    @builtin(num_subgroups) n_teams: u32,
}

fn lane_of(lanes: Lanes) -> u32 { return lanes.lane; }
fn n_lanes_of(lanes: Lanes) -> u32 { return min(lanes.n_lanes, WG); }
fn team_of(lanes: Lanes) -> u32 { return lanes.team; }
fn n_teams_of(lanes: Lanes) -> u32 { return lanes.n_teams; }

// The sum over the team's lanes, for each of them.
fn team_sum(value: f32, lanes: Lanes) -> f32 { return subgroupAdd(value); }
