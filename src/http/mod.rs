//! `--http`: `/health` and `/metrics` of a long-running process, for load balancers, probes and collectors.
//!
//! On a thread of its own, so that it answers when the process hangs inside; everything that somebody out there can make it
//! hold is bounded.

mod exposition;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_proto::monitor::{Monitor, Report};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::error::Failure;

/// Connections at once; more are closed as they come.
const CONNECTIONS: usize = 64;
/// A request's line and headers may take so long to arrive, and so many bytes (the least that hyper takes).
const REQUEST: Duration = Duration::from_secs(5);
const REQUEST_BYTES: usize = 8 << 10;
/// A connection is closed after so long, whatever its peer does. One request comes over each.
const CONNECTION: Duration = Duration::from_secs(15);
/// A process that does not say within this time how it is, hangs.
const PATIENCE: Duration = Duration::from_secs(2);
/// After connections could not be accepted (too many files are open).
const PAUSE: Duration = Duration::from_millis(200);

/// Flags of every long-running process.
#[derive(Debug, Default, clap::Args)]
#[group(skip)]
pub struct Args {
    /// Answer GET /health (200 or 503, for load balancers and probes) and GET /metrics (for Prometheus) over HTTP
    /// here; port 0: any, `cairn status --json` tells which [default: nowhere]
    #[arg(long, value_name = "ADDR", env = "CAIRN_HTTP", hide_env_values = true)]
    pub http: Option<SocketAddr>,
}

/// Answers from now on, if an address is given. The process is to tell the monitor how it can be asked.
pub fn serve(args: &Args, process: &'static str) -> Result<Monitor, Failure> {
    let Some(at) = args.http else { return Ok(Monitor::default()) };
    let failed = |e: std::io::Error| Failure::system(format!("cannot listen on {at} (--http)"), &e);
    let listener = std::net::TcpListener::bind(at).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let monitor = Monitor::at(address.to_string());
    let runtime = crate::process::small_runtime()?;
    let asked = monitor.clone();
    let answering = move || {
        runtime.block_on(async {
            match TcpListener::from_std(listener) {
                Ok(listener) => accept(&listener, process, &asked).await,
                Err(e) => tracing::error!(error = %e, "health is not told over HTTP"),
            }
        });
    };
    std::thread::Builder::new().name("http".into()).spawn(answering).map_err(failed)?;
    tracing::info!(%address, "/health and /metrics are answered");
    Ok(monitor)
}

async fn accept(listener: &TcpListener, process: &'static str, monitor: &Monitor) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                tracing::debug!(error = %e, "a connection for health or metrics was not accepted");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Ok(place) = room.clone().try_acquire_owned() else { continue };
        let monitor = monitor.clone();
        tokio::spawn(async move {
            let _place = place;
            // One that is slow, or no HTTP at all: it is closed, and that is all.
            let _ = tokio::time::timeout(CONNECTION, connection(stream, process, monitor)).await;
        });
    }
}

async fn connection(stream: TcpStream, process: &'static str, monitor: Monitor) -> Result<(), hyper::Error> {
    let service = service_fn(move |request| {
        let monitor = monitor.clone();
        async move { Ok::<_, Infallible>(answer(&request, process, &monitor).await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST)
        .max_buf_size(REQUEST_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

async fn answer(
    request: &Request<Incoming>,
    process: &'static str,
    monitor: &Monitor,
) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refused =
            response(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET is answered\n".into());
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    match request.uri().path() {
        "/health" => {
            let report = monitor.ask(PATIENCE).await;
            let status =
                if report.unwell.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            response(status, "application/json", health(process, &report))
        }
        "/metrics" => match exposition::text(process, &monitor.ask(PATIENCE).await) {
            Ok(text) => response(StatusCode::OK, exposition::CONTENT, text),
            Err(e) => response(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", format!("{e}\n")),
        },
        _ => response(StatusCode::NOT_FOUND, "text/plain", "there are /health and /metrics\n".into()),
    }
}

fn health(process: &str, report: &Report) -> String {
    let mut told = json!({"status": "ok", "process": process, "remarks": report.remarks});
    if let Some(why) = &report.unwell {
        told["status"] = "unwell".into();
        told["reason"] = why.as_str().into();
    }
    format!("{told}\n")
}

fn response(status: StatusCode, content: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
