//! `moorline serve`: a gateway, until it is told to stop.

use std::{io::IsTerminal, net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

use super::{
    address, at_least_100ms, duration, output,
    signals::{Signals, Told},
    switch, whole,
};
use crate::{
    config::{Auth, Config, Cors, DEFAULT_PORT, Drain, Limits, Quotas},
    descriptors, otlp, rules,
    store::{Durability, Retention, Tls},
};

const AUTH: &str = "Who may do what";
const BROWSERS: &str = "Browsers";
const QUOTAS: &str = "Limits that count (on each replica; 0: none)";

const CODES: &str = "Exit codes: 0 told to stop (SIGTERM, Ctrl-C), 1 failed, or told to stop twice, 2 wrong usage.";

/// The gateway's arguments.
#[derive(Debug, Args)]
#[command(after_help = CODES)]
pub struct ServeArgs {
    /// Where to listen
    #[arg(long, env = "MOORLINE_LISTEN", value_parser = address, value_name = "ADDR:PORT",
          default_value_t = SocketAddr::from(([127, 0, 0, 1], DEFAULT_PORT)))]
    listen: SocketAddr,
    /// Serve /metrics here and nowhere else, apart from what the world reaches
    #[arg(long, env = "MOORLINE_METRICS_LISTEN", value_parser = address, value_name = "ADDR:PORT")]
    metrics_listen: Option<SocketAddr>,
    /// Without keys, listen beyond loopback and answer requests for other hosts than localhost: anyone who reaches the port
    /// can read and write
    #[arg(long, env = "MOORLINE_INSECURE_NO_AUTH", value_parser = switch)]
    insecure_no_auth: bool,

    /// Ask for tokens (JWT), signed with HS256 and the secret in this file: at least 32 bytes, as `openssl rand -hex 32`
    /// makes them. Read again when it changes, as the other key files are
    #[arg(long, env = "MOORLINE_AUTH_SECRET_FILE", value_name = "FILE", help_heading = AUTH)]
    auth_secret_file: Option<PathBuf>,
    /// Ask for tokens, signed with the private key to this public one (PEM): RSA for RS256, P-256 for ES256, Ed25519
    /// for EdDSA. May be given several times
    #[arg(long, env = "MOORLINE_AUTH_PUBLIC_KEY_FILE", value_name = "FILE", value_delimiter = ',', help_heading = AUTH)]
    auth_public_key_file: Vec<PathBuf>,
    /// Ask for tokens, signed with the private key to one of these public ones (JWKS)
    #[arg(long, env = "MOORLINE_AUTH_JWKS_FILE", value_name = "FILE", help_heading = AUTH)]
    auth_jwks_file: Option<PathBuf>,
    /// Tokens must name this audience. Without it, they may name none
    #[arg(long, env = "MOORLINE_AUTH_AUDIENCE", value_name = "TEXT", help_heading = AUTH)]
    auth_audience: Option<String>,
    /// Tokens must name this issuer. Without it, they may name any
    #[arg(long, env = "MOORLINE_AUTH_ISSUER", value_name = "TEXT", help_heading = AUTH)]
    auth_issuer: Option<String>,
    /// How far the clocks of issuers and replicas may differ
    #[arg(long, env = "MOORLINE_AUTH_LEEWAY", default_value = "30s", value_parser = leeway, value_name = "TIME",
          help_heading = AUTH)]
    auth_leeway: Duration,

    /// Serve a page at /console, to watch and steer sessions in a browser. It needs nothing but the token of its user
    #[arg(long, env = "MOORLINE_CONSOLE", value_parser = switch, help_heading = BROWSERS)]
    console: bool,
    /// Pages of this origin may use the gateway, as https://app.example.com; * for all. May be given several times
    #[arg(long, env = "MOORLINE_CORS_ORIGIN", value_name = "ORIGIN", value_delimiter = ',', help_heading = BROWSERS)]
    cors_origin: Vec<String>,
    /// Their requests may carry cookies, for a proxy that asks for them
    #[arg(long, env = "MOORLINE_CORS_CREDENTIALS", value_parser = switch, help_heading = BROWSERS)]
    cors_credentials: bool,
    /// How long browsers may remember what is allowed
    #[arg(long, env = "MOORLINE_CORS_MAX_AGE", default_value = "1h", value_parser = duration, value_name = "TIME",
          help_heading = BROWSERS)]
    cors_max_age: Duration,

    /// Events, and other writes, of one token a second; more get 429, and bodies without end are slowed down
    #[arg(long, env = "MOORLINE_MAX_EVENTS_PER_SECOND", value_parser = whole::<u32>(0), default_value_t = 0, value_name = "N", help_heading = QUOTAS)]
    max_events_per_second: u32,
    /// Sessions that one token may bring into being a minute; more get 429
    #[arg(long, env = "MOORLINE_MAX_NEW_SESSIONS_PER_MINUTE", value_parser = whole::<u32>(0), default_value_t = 0, value_name = "N",
          help_heading = QUOTAS)]
    max_new_sessions_per_minute: u32,
    /// Open streams (not the bodies that agents send without end); more get 503
    #[arg(long, env = "MOORLINE_MAX_STREAMS", value_parser = whole::<usize>(0), default_value_t = 0, value_name = "N", help_heading = QUOTAS)]
    max_streams: usize,
    /// Open streams of one session; more get 429
    #[arg(long, env = "MOORLINE_MAX_STREAMS_PER_SESSION", value_parser = whole::<usize>(0), default_value_t = 0, value_name = "N", help_heading = QUOTAS)]
    max_streams_per_session: usize,
    /// Open streams of one token; more get 429
    #[arg(long, env = "MOORLINE_MAX_STREAMS_PER_TOKEN", value_parser = whole::<usize>(0), default_value_t = 0, value_name = "N", help_heading = QUOTAS)]
    max_streams_per_token: usize,

    /// The Redis that holds the sessions, as in redis://user:password@host:6379/0 (also rediss://, unix://). Without
    /// one, sessions live in this process's memory, for this process only
    #[arg(long, env = "MOORLINE_REDIS_URL", hide_env_values = true, value_name = "URL", help_heading = "Store")]
    redis_url: Option<String>,
    /// For rediss://: the authority (PEM) that has signed Redis's certificate. Without it, those that everybody trusts
    #[arg(long, env = "MOORLINE_REDIS_CA", value_name = "FILE", help_heading = "Store")]
    redis_ca: Option<PathBuf>,
    /// For rediss://, where Redis asks for it: the gateway's own certificate (PEM)
    #[arg(long, env = "MOORLINE_REDIS_CERT", value_name = "FILE", requires = "redis_key", help_heading = "Store")]
    redis_cert: Option<PathBuf>,
    /// The key of that certificate (PEM)
    #[arg(long, env = "MOORLINE_REDIS_KEY", value_name = "FILE", requires = "redis_cert", help_heading = "Store")]
    redis_key: Option<PathBuf>,
    /// What every Redis key begins with
    #[arg(
        long,
        env = "MOORLINE_REDIS_PREFIX",
        default_value = "moorline:",
        value_name = "TEXT",
        help_heading = "Store"
    )]
    redis_prefix: String,
    /// How long Redis may take to answer before a request gets 503
    #[arg(long, env = "MOORLINE_REDIS_TIMEOUT", default_value = "2s", value_parser = at_least_100ms, value_name = "TIME",
          help_heading = "Store")]
    redis_timeout: Duration,
    /// When a write is answered with success: redis (once Redis has answered: as durable as it is configured to be), or
    /// replicated:N (once N replicas of Redis have it, too)
    #[arg(long, env = "MOORLINE_DURABILITY", default_value = "redis", value_parser = durability, value_name = "MODE",
          help_heading = "Store")]
    durability: Durability,
    /// How long Redis may be away before open streams are cut, for their clients to try elsewhere
    #[arg(long, env = "MOORLINE_REDIS_PATIENCE", default_value = "30s", value_parser = at_least_100ms, value_name = "TIME",
          help_heading = "Store")]
    redis_patience: Duration,
    /// How long to try at the start, if Redis is not there yet
    #[arg(long, env = "MOORLINE_REDIS_WAIT", default_value = "30s", value_parser = duration, value_name = "TIME",
          help_heading = "Store")]
    redis_wait: Duration,
    /// A session that nobody wrote to for so long is gone; 0 keeps it for ever
    #[arg(long, env = "MOORLINE_RETENTION", default_value = "24h", value_parser = duration, value_name = "TIME",
          help_heading = "Store")]
    retention: Duration,
    /// How many entries each lane of a session keeps at least
    #[arg(long, env = "MOORLINE_MAX_ENTRIES", default_value_t = Retention::default().cap, value_name = "N",
          value_parser = whole::<u64>(1), help_heading = "Store")]
    max_entries: u64,

    /// The largest event, in bytes
    #[arg(long, env = "MOORLINE_MAX_EVENT_BYTES", value_parser = whole::<usize>(1), default_value_t = Limits::default().event_bytes, value_name = "N",
          help_heading = "Limits")]
    max_event_bytes: usize,
    /// The largest body that is not a stream, in bytes
    #[arg(long, env = "MOORLINE_MAX_BODY_BYTES", value_parser = whole::<usize>(1), default_value_t = Limits::default().body_bytes, value_name = "N",
          help_heading = "Limits")]
    max_body_bytes: usize,
    /// The most events in one JSON array
    #[arg(long, env = "MOORLINE_MAX_BATCH_EVENTS", value_parser = whole::<usize>(1), default_value_t = Limits::default().batch_events, value_name = "N",
          help_heading = "Limits")]
    max_batch_events: usize,
    /// How long a streaming body may be silent in the middle of an event, and how long any other body may take (and a second more for each 64 KiB)
    #[arg(long, env = "MOORLINE_BODY_TIMEOUT", default_value = "30s", value_parser = at_least_100ms, value_name = "TIME",
          help_heading = "Limits")]
    body_timeout: Duration,
    /// How long a request's head may take, from its first byte on
    #[arg(long, env = "MOORLINE_HEAD_TIMEOUT", default_value = "10s", value_parser = at_least_100ms, value_name = "TIME",
          help_heading = "Limits")]
    head_timeout: Duration,
    /// How long a connection may rest between requests; longer than the load balancer keeps it
    #[arg(long, env = "MOORLINE_IDLE_TIMEOUT", default_value = "75s", value_parser = at_least_100ms, value_name = "TIME",
          help_heading = "Limits")]
    idle_timeout: Duration,
    /// The largest request head, in bytes (at least 8192)
    #[arg(long, env = "MOORLINE_MAX_HEAD_BYTES", value_parser = whole::<usize>(8192), default_value_t = Limits::default().head_bytes, value_name = "N",
          help_heading = "Limits")]
    max_head_bytes: usize,
    /// The pause between heartbeat comments on a stream
    #[arg(long, env = "MOORLINE_HEARTBEAT", default_value = "15s", value_parser = at_least_100ms, value_name = "TIME",
          help_heading = "Limits")]
    heartbeat: Duration,
    /// A client that takes nothing for so long is cut (it can resume)
    #[arg(long, env = "MOORLINE_STALL_TIMEOUT", default_value = "60s", value_parser = at_least_100ms, value_name = "TIME",
          help_heading = "Limits")]
    stall_timeout: Duration,
    /// The most runs in a session
    #[arg(long, env = "MOORLINE_MAX_RUNS", value_parser = whole::<usize>(0), default_value_t = rules::Limits::default().runs, value_name = "N",
          help_heading = "Limits")]
    max_runs: usize,
    /// The largest control state of a session (its runs, commands and approvals), in bytes
    #[arg(long, env = "MOORLINE_MAX_CONTROL_BYTES", value_parser = whole::<usize>(0), default_value_t = rules::Limits::default().bytes,
          value_name = "N", help_heading = "Limits")]
    max_control_bytes: usize,

    /// Once told to stop: how long /readyz fails before anything else changes, for load balancers to notice
    #[arg(long, env = "MOORLINE_DRAIN_WAIT", default_value = "2500ms", value_parser = duration, value_name = "TIME",
          help_heading = "Stopping")]
    drain_wait: Duration,
    /// Then: the time over which open streams are cut, each at a moment of its own
    #[arg(long, env = "MOORLINE_DRAIN_SPREAD", default_value = "3s", value_parser = duration, value_name = "TIME",
          help_heading = "Stopping")]
    drain_spread: Duration,
    /// Then: how long requests under way may take
    #[arg(long, env = "MOORLINE_DRAIN", default_value = "3s", value_parser = duration, value_name = "TIME",
          help_heading = "Stopping")]
    drain: Duration,

    /// How much to log: error, warn, info, debug, trace, or a filter such as moorline=debug
    #[arg(long, env = "MOORLINE_LOG", default_value = "info", value_name = "FILTER")]
    log: String,
    /// The form of log lines
    #[arg(long, env = "MOORLINE_LOG_FORMAT", default_value = "text", value_name = "FORM")]
    log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

impl ServeArgs {
    fn auth(&self) -> Option<Auth> {
        let text = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let auth = Auth {
            secret_file: self.auth_secret_file.clone(),
            public_key_files: self.auth_public_key_file.clone(),
            jwks_file: self.auth_jwks_file.clone(),
            audience: text(&self.auth_audience),
            issuer: text(&self.auth_issuer),
            leeway: self.auth_leeway,
        };
        let asked_for = auth.files().next().is_some();
        asked_for.then_some(auth)
    }

    fn cors(&self) -> Option<Cors> {
        let origins: Vec<_> = self.cors_origin.iter().filter(|origin| !origin.is_empty()).cloned().collect();
        let cors = Cors { origins, credentials: self.cors_credentials, max_age: self.cors_max_age };
        (!cors.origins.is_empty()).then_some(cors)
    }

    fn config(&self) -> Config {
        // A retention of 0 keeps sessions: no session outlives this.
        let for_ever = Duration::from_secs(100 * 365 * 86_400);
        let retention = if self.retention.is_zero() { for_ever } else { self.retention };
        Config {
            listen: self.listen,
            metrics_listen: self.metrics_listen,
            redis_url: self.redis_url.clone().filter(|url| !url.is_empty()),
            redis_tls: Tls { ca: self.redis_ca.clone(), client: self.redis_cert.clone().zip(self.redis_key.clone()) },
            redis_prefix: self.redis_prefix.clone(),
            redis_timeout: self.redis_timeout,
            durability: self.durability,
            redis_patience: self.redis_patience,
            redis_wait: self.redis_wait,
            retention: Retention { ttl: retention, cap: self.max_entries },
            auth: self.auth(),
            cors: self.cors(),
            local_only: self.listen.ip().is_loopback() && !self.insecure_no_auth && self.auth().is_none(),
            console: self.console,
            quotas: Quotas {
                events_per_second: self.max_events_per_second,
                new_sessions_per_minute: self.max_new_sessions_per_minute,
                streams: self.max_streams,
                streams_per_session: self.max_streams_per_session,
                streams_per_token: self.max_streams_per_token,
            },
            limits: Limits {
                event_bytes: self.max_event_bytes,
                body_bytes: self.max_body_bytes,
                batch_events: self.max_batch_events,
                body_timeout: self.body_timeout,
                head_timeout: self.head_timeout,
                idle_timeout: self.idle_timeout,
                head_bytes: self.max_head_bytes,
                heartbeat: self.heartbeat,
                stall_timeout: self.stall_timeout,
                ..Limits::default()
            },
            control: rules::Limits { runs: self.max_runs, bytes: self.max_control_bytes, ..rules::Limits::default() },
            drain: Drain { wait: self.drain_wait, spread: self.drain_spread, finish: self.drain },
        }
    }
}

/// Runs a gateway until it is told to stop.
pub async fn run(args: ServeArgs) -> ExitCode {
    if let Err(error) = log_to_stderr(&args) {
        output::notice(format_args!("error: --log {:?}: {error}", args.log));
        return ExitCode::from(2);
    }
    let mut signals = Signals::new();
    let exporting = match otlp::start() {
        Ok(exporting) => exporting,
        Err(error) => {
            output::notice(format_args!("error: {error}"));
            return ExitCode::from(2);
        }
    };
    let config = args.config();
    let given = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    if config.auth.is_none() && (given(&args.auth_audience) || given(&args.auth_issuer)) {
        output::notice(format_args!(
            "error: --auth-audience and --auth-issuer are looked for in tokens, and without a key nobody is asked for one; \
             see --auth-secret-file"
        ));
        return ExitCode::from(2);
    }
    if config.auth.is_none() && !args.listen.ip().is_loopback() && !args.insecure_no_auth {
        output::notice(format_args!(
            "error: {} can be reached from other machines, and nobody has to show a token. Ask for tokens (see \
             --auth-secret-file), listen on 127.0.0.1, or say --insecure-no-auth if something in front of the gateway \
             lets only the right people through.",
            args.listen
        ));
        return ExitCode::from(2);
    }
    if args.cors_credentials && config.cors.is_none() {
        output::notice(format_args!("error: --cors-credentials is for the pages of an origin; see --cors-origin"));
        return ExitCode::from(2);
    }
    if config.redis_url.is_none() && config.durability != Durability::Redis {
        output::notice(format_args!("error: --durability replicated:N needs --redis-url"));
        return ExitCode::from(2);
    }
    if let Some(most) =
        descriptors::raise().filter(|most| (config.quotas.streams as u64).saturating_add(descriptors::OTHERS) > *most)
    {
        tracing::warn!(
            most,
            "--max-streams is more than the descriptors that the process may have: raise the hard limit (ulimit -Hn, LimitNOFILE)"
        );
    }
    let started = tokio::select! {
        started = crate::serve(&config) => started,
        _ = signals.told() => {
            tracing::info!("stopped before it listened");
            return ExitCode::SUCCESS;
        }
    };
    let server = match started {
        Ok(server) => server,
        Err(error) => {
            output::notice(format_args!("error: {error}"));
            return if error.is_usage() { ExitCode::from(2) } else { ExitCode::FAILURE };
        }
    };
    match &config.redis_url {
        Some(_) => tracing::info!("sessions live in Redis, under {:?}", config.redis_prefix),
        None => tracing::warn!(
            "sessions live in this process's memory: they end with it, and no second replica shares them; \
             --redis-url makes them durable"
        ),
    }
    match &config.auth {
        Some(auth) => {
            let files: Vec<_> = auth.files().map(|path| path.display().to_string()).collect();
            tracing::info!("who may do what is said by tokens, checked with the keys in {}", files.join(", "));
        }
        None if config.quotas.counts_tokens() => tracing::warn!(
            "nobody has to show a token: whoever reaches the gateway may do everything, and what is limited by token is \
             not limited"
        ),
        None => tracing::info!("nobody has to show a token: whoever reaches the gateway may do everything"),
    }
    if let Some(addr) = server.metrics {
        tracing::info!("metrics are at http://{addr}/metrics, and nowhere else");
    }
    tracing::info!("moorline {} listens on http://{}", env!("CARGO_PKG_VERSION"), server.addr);
    if config.console {
        tracing::info!("the console is at http://{}/console", server.addr);
    }
    let drain = match signals.told().await {
        Told::Terminate => config.drain,
        // By a person at a terminal, who has no load balancer.
        Told::Interrupt => config.drain.at_once(),
    };
    tracing::info!(
        wait_ms = drain.wait.as_millis() as u64,
        spread_ms = drain.spread.as_millis() as u64,
        finish_ms = drain.finish.as_millis() as u64,
        "stopping: not ready any more, then streams are cut for their clients to go on elsewhere, then requests finish"
    );
    tokio::select! {
        () = server.shutdown(drain) => {
            if let Some(exporting) = exporting {
                exporting.finish().await;
            }
            tracing::info!("stopped");
            ExitCode::SUCCESS
        }
        () = signals.told_again() => {
            tracing::warn!("told to stop again: ended at once");
            ExitCode::FAILURE
        }
    }
}

fn log_to_stderr(args: &ServeArgs) -> Result<(), tracing_subscriber::filter::ParseError> {
    let filter = EnvFilter::builder().parse(&args.log)?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    match args.log_format {
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    Ok(())
}

/// What clocks differ by.
fn leeway(text: &str) -> Result<Duration, String> {
    const MOST: Duration = Duration::from_secs(24 * 3600);
    match duration(text)? {
        time if time > MOST => Err("it is at most 24h".to_owned()),
        time if time.subsec_nanos() > 0 => Err("it takes whole seconds".to_owned()),
        time => Ok(time),
    }
}

/// `redis` or `replicated:N`.
fn durability(text: &str) -> Result<Durability, String> {
    match text.split_once(':') {
        None if text == "redis" => Ok(Durability::Redis),
        Some(("replicated", replicas)) => replicas
            .parse()
            .ok()
            .filter(|replicas| *replicas > 0)
            .map(Durability::Replicated)
            .ok_or_else(|| "say how many replicas, as in replicated:1".into()),
        _ => Err("it is redis or replicated:N".into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, FromArgMatches, builder::Resettable};

    use super::*;

    #[derive(clap::Parser)]
    struct Alone {
        #[command(flatten)]
        serve: ServeArgs,
    }

    /// They stand here as texts, for `--help`.
    #[test]
    fn the_defaults_are_those_of_the_configuration() {
        let command = Alone::command().mut_args(|arg| arg.env(Resettable::Reset));
        let Alone { serve } = Alone::from_arg_matches(&command.get_matches_from(["serve"])).unwrap();
        let default = Config { local_only: true, ..Config::default() };
        assert_eq!(format!("{:#?}", serve.config()), format!("{default:#?}"));
    }

    #[test]
    fn a_switch_is_a_variable_too_in_the_words_of_others() {
        for (word, on) in [("1", true), ("yes", true), ("true", true), ("0", false), ("no", false), ("false", false)] {
            let variable = Alone::command().mut_args(|arg| match arg.get_id() == "console" {
                // As if the environment had it.
                true => arg.env(Resettable::Reset).default_value(word),
                false => arg.env(Resettable::Reset),
            });
            let Alone { serve } = Alone::from_arg_matches(&variable.get_matches_from(["serve"])).unwrap();
            assert_eq!(serve.console, on, "{word}");
        }
    }

    #[test]
    fn durability_is_read() {
        assert_eq!(durability("redis"), Ok(Durability::Redis));
        assert_eq!(durability("replicated:2"), Ok(Durability::Replicated(2)));
        for wrong in ["", "replicated", "replicated:", "replicated:0", "replicated:x", "redis:1", "disk"] {
            assert!(durability(wrong).is_err(), "{wrong:?}");
        }
    }
}
