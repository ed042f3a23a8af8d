// Linear workgroup ids. A grid of more than 65,535 workgroups is folded into rows of equal length, so ids at the end
// of the last row may lie past the grid: every kernel bounds what it derives from its id.

fn linear_id(workgroup: vec3<u32>, n_workgroups: vec3<u32>) -> u32 {
    return workgroup.y * n_workgroups.x + workgroup.x;
}
