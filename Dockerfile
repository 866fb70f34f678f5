# pgbaton in a small image that runs as an ordinary user.
#
#   docker build -t pgbaton .
#   docker run -p 6432:6432 -v ./config.toml:/etc/pgbaton/config.toml:ro pgbaton
#
# Without a config file of yours, one database can be named by the environment:
#
#   docker run -p 6432:6432 -e PGBATON_DATABASE_URL=postgres://user:password@host:5432/name pgbaton

FROM rust:1.95-bookworm AS build
WORKDIR /build
COPY . .
# The caches live on the build machine, not in the image, so the binary is copied out of them.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    cargo build --locked --release --bin pgbaton \
    && cp target/release/pgbaton /pgbaton

FROM debian:bookworm-slim
RUN groupadd --system --gid 6432 pgbaton \
    && useradd --system --uid 6432 --gid pgbaton --no-create-home --shell /usr/sbin/nologin pgbaton
COPY --from=build /pgbaton /usr/local/bin/pgbaton
COPY config.toml /etc/pgbaton/config.toml
COPY LICENSE-MIT LICENSE-APACHE /usr/share/doc/pgbaton/
# Inside a container 127.0.0.1 is nobody's address but the container's own.
ENV PGBATON_LISTEN_ADDR=0.0.0.0
USER pgbaton
EXPOSE 6432
# SIGTERM drains: no new clients, and each transaction may end.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=4s --start-period=5s --retries=3 \
    CMD ["pgbaton", "healthcheck", "--addr", "127.0.0.1:6432"]
ENTRYPOINT ["pgbaton"]
CMD ["run", "--config", "/etc/pgbaton/config.toml"]
