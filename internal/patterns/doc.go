// Package patterns has no code of its own: its tests run applications on other clients than
// redferry's (go-redis, redsync, asynq) through a whole migration, and compare what these were told
// with what the target has. It is a module of its own, so that redferry does not depend on those
// clients.
package patterns
