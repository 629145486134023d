
# Appended to the suite's own tests/support/util.tcl, in a copy of it. After each test the suite waits here until both sides were compared.
rename test suite_test
proc test {name code args} {
    # In external mode the other server is the same one: it would be its own replica. A debugged script holds up its server,
    # and one that has written and does not end can only be ended with it.
    if {[regexp {\y(slaveof|replicaof|shutdown|restart_server|kill_server|script debug)\y} $code] ||
        [regexp {redis.call\('set',KEYS\[1\],'y'\); while true} $code]} {
        send_data_packet $::test_server_fd skip "$name: it wants servers of its own"
        return
    }
    know_the_process
    set status [catch {uplevel 1 [list suite_test $name $code {*}$args]} result choices]
    await_comparison $name
    dict incr choices -level
    return -options $choices $result
}

# In external mode a suite does not know the server's process and its log, which some tests look at. srv is defined behind this.
proc know_the_process {} {
    if {[info commands suite_srv] ne {} || [info commands srv] eq {}} return
    rename srv suite_srv
    proc srv {args} {
        switch -- [lindex $args end] {
            pid { return $::env(SUITES_PID) }
            stdout { return $::env(SUITES_LOG) }
        }
        uplevel 1 [list suite_srv {*}$args]
    }
}

# A second server would be the same one again. Before 7.0 a suite does not give an external server the settings that a file wants.
rename start_server suite_start_server
set ::nested 0
set ::before {}
proc start_server {options {code undefined}} {
    if {$::nested} {
        send_data_packet $::test_server_fd skip "a second server: $options"
        return
    }
    set ::nested 1
    if {[info procs run_external_server_test] eq {} && [dict exists $options overrides]} {
        set code "[list override [dict get $options overrides]]\n$code"
    }
    set status [catch {uplevel 1 [list suite_start_server $options $code]} result choices]
    foreach {parameter value} $::before { catch {r config set $parameter $value} }
    set ::before {}
    set ::nested 0
    dict incr choices -level
    return -options $choices $result
}

proc override {settings} {
    foreach {parameter value} $settings {
        lappend ::before $parameter [lindex [r config get $parameter] 1]
        if {![catch {r config set $parameter $value}] && $parameter eq "appendonly"} { waitForBgrewriteaof r }
    }
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

# The suite's own tries a few ports that several suites at the same time would fight for.
proc find_available_port {start count} {
    set listener [socket -server {} -myaddr 127.0.0.1 0]
    set port [lindex [fconfigure $listener -sockname] 2]
    close $listener
    return $port
}

# Files that are marked external:skip, but could run against any server that is theirs alone and allows DEBUG.
if {[info exists ::env(SUITES_UNSKIP)] && [info procs tags_acceptable] ne {}} {
    rename tags_acceptable suite_tags_acceptable
    proc tags_acceptable {tags err_return} {
        upvar 1 $err_return err
        if {[lsearch -exact $tags cluster] < 0} { set tags [lsearch -all -inline -not -exact $tags external:skip] }
        suite_tags_acceptable $tags err
    }
}
