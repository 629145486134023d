// Package redistest gives tests real servers, and ways to hurt them: it is for tests, the benchmark and the demo, never for the binary.
//
// [Servers] lists the server builds of this machine (fetched by servers.sh), [Start] runs one, [StartCluster] and
// [StartSentinels] several, [ClockOffset] gives one another time. [Proxy] and [CommandProxy] stand in front of a server and cut,
// hold or falsify what passes. [Fill] makes a keyspace of every type and encoding, [Load] keeps writing to it, and [Compare] says where two servers
// differ: the tests' own oracle, which shares no code with the program that is tested. [Outside] gives the benchmark and the demo a stand-in for a test.
//
// Whatever is started ends with the test: servers are killed by their pid, in cleanup, and by the kernel when the test binary itself is
// killed; goroutines are joined. The package imports nothing of this module, so that in-package tests of any package may use it.
package redistest
