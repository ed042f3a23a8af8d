//! A model behind an HTTP handler of axum: `curl -N -d 'Tell me a story.' localhost:3000`. Clients share the model; one that
//! goes away ends its answer.

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use futures_util::StreamExt;
use ingot::{Engine, Error, GenerateOptions, LoadOptions, Model};
use std::pin::Pin;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| "models/ingot-tales-14m".into());
    let device = std::env::args().nth(2).unwrap_or_else(|| "cpu".into());
    let device = device.parse().unwrap_or_default();
    let options = LoadOptions { device, max_batch: 4, ..LoadOptions::default() };
    let engine = Engine::start(Model::load(folder.as_ref(), options)?)?;
    let router = axum::Router::new().route("/", post(answer)).with_state(engine);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    Ok(axum::serve(listener, router).await?)
}

async fn answer(State(engine): State<Engine>, message: String) -> Result<Body, (StatusCode, String)> {
    let refused = |error: &Error| match error {
        Error::Busy { .. } => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
        error => (StatusCode::BAD_REQUEST, error.to_string()),
    };
    let prompt = engine.language().chat_prompt(&message).map_err(|error| refused(&error))?;
    let pieces = engine.stream(prompt, GenerateOptions { max_tokens: 200, ..GenerateOptions::default() });
    // What is wrong with a request is the first thing that comes.
    let mut pieces = pieces.peekable();
    if let Some(Err(error)) = Pin::new(&mut pieces).peek().await {
        return Err(refused(error));
    }
    Ok(Body::from_stream(pieces.map(|piece| piece.map(|piece| Bytes::from(piece.text)))))
}
