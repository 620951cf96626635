//! The kinds of credentials against real servers, through public doors only.

#[cfg(test)]
mod aws_sts;
#[cfg(test)]
mod checkout;
#[cfg(test)]
mod checkout_cuts;
#[cfg(test)]
mod checkout_world;
#[cfg(test)]
mod clouds_cuts;
#[cfg(test)]
mod clouds_world;
#[cfg(test)]
mod cut;
#[cfg(test)]
mod github_app;
#[cfg(test)]
mod http;
#[cfg(test)]
mod kubernetes;
#[cfg(test)]
mod mariadb;
#[cfg(test)]
mod mariadb_cuts;
#[cfg(test)]
mod mariadb_session;
#[cfg(test)]
mod mariadb_world;
#[cfg(test)]
mod mtls;
#[cfg(test)]
mod nats;
#[cfg(test)]
mod nats_session;
#[cfg(test)]
mod nats_world;
#[cfg(test)]
mod oauth2;
#[cfg(test)]
mod postgresql;
#[cfg(test)]
mod postgresql_cost;
#[cfg(test)]
mod postgresql_cuts;
#[cfg(test)]
mod postgresql_nodes;
#[cfg(test)]
mod postgresql_session;
#[cfg(test)]
mod postgresql_world;
#[cfg(test)]
mod rabbitmq;
#[cfg(test)]
mod rabbitmq_session;
#[cfg(test)]
mod rabbitmq_world;
#[cfg(test)]
mod redis;
#[cfg(test)]
mod redis_cuts;
#[cfg(test)]
mod redis_session;
#[cfg(test)]
mod redis_world;
#[cfg(test)]
mod sql_oracle;
#[cfg(test)]
mod ssh;
#[cfg(test)]
mod ssh_session;
#[cfg(test)]
mod ssh_world;
#[cfg(test)]
mod tls;
#[cfg(test)]
mod words;
