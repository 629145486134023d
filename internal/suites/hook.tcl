
# Appended to the suite's own tests/support/test.tcl, in a copy of it. After each test the suite waits here until both sides were compared.
rename test suite_test
proc test {name code args} {
    # In external mode a second start_server is the same server again: as its own replica it would be of no use to anybody.
    if {[regexp {\y(slaveof|replicaof|shutdown|restart_server|kill_server)\y} $code]} {
        send_data_packet $::test_server_fd skip "$name: it wants servers of its own"
        return
    }
    set status [catch {uplevel 1 [list suite_test $name $code {*}$args]} result options]
    await_comparison $name
    dict incr options -level
    return -options $options $result
}

proc await_comparison {name} {
    if {![info exists ::comparing]} {
        set ::comparing [socket 127.0.0.1 $::env(SUITES_PORT)]
        fconfigure $::comparing -encoding utf-8 -translation lf
    }
    puts $::comparing [string map {\n " "} $name]
    flush $::comparing
    if {[gets $::comparing] ne "go"} { exit 1 }
}

# Files whose tests could run against any server that allows DEBUG, but are marked external:skip.
if {[info exists ::env(SUITES_UNSKIP)]} {
    rename tags_acceptable suite_tags_acceptable
    proc tags_acceptable {tags err_return} {
        upvar 1 $err_return err
        suite_tags_acceptable [lsearch -all -inline -not -exact $tags external:skip] err
    }
}
