//! Compiles the protocol files with protox, so that no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "proto/common.proto",
        "proto/meta.proto",
        "proto/cluster.proto",
        "proto/data.proto",
        "proto/fsck.proto",
        "proto/locks.proto",
    ];
    for f in files {
        println!("cargo::rerun-if-changed={f}");
    }
    let set = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure().bytes(".").compile_fds(set)?;
    Ok(())
}
