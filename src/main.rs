//! The `moorline` program.

/// glibc's allocator took a fifth of the gateway's time when it was measured (1,000 sessions, single appends): its threads
/// wait for each other's arenas.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    moorline::cli::main()
}
