//! A wgpu device of the program's own, and two models on it that are counted together.

use ingot::{GenerateOptions, Gpu, LoadOptions, Memory, Model, wgpu};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| "models/ingot-tales-14m".into());
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = pollster::block_on(instance.request_adapter(&wgpu::RequestAdapterOptions::default()))?;
    let descriptor = wgpu::DeviceDescriptor {
        // What models use where it is there, beside whatever the program needs.
        required_features: adapter.features() & ingot::runtime::gpu::useful_features(),
        required_limits: adapter.limits(),
        ..wgpu::DeviceDescriptor::default()
    };
    let (device, queue) = pollster::block_on(adapter.request_device(&descriptor))?;
    device.on_uncaptured_error(std::sync::Arc::new(|error| eprintln!("{error}")));
    let gpu = Gpu::share(device, queue);
    let memory = Memory::default();
    let options = || LoadOptions { gpu: Some(gpu.clone()), memory: memory.clone(), ..LoadOptions::default() };
    let (mut first, mut second) = (Model::load(folder.as_ref(), options())?, Model::load(folder.as_ref(), options())?);
    for model in [&mut first, &mut second] {
        let prompt = model.chat_prompt("Tell me a story.")?;
        let answer = model.generate(&prompt, &GenerateOptions { max_tokens: 8, ..Default::default() }, |_| true)?;
        println!("{}: {}", model.device(), answer.text);
    }
    println!("{} bytes for both", memory.active());
    Ok(())
}
