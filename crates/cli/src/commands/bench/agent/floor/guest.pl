# The far end of the floor in a guest: bare copies between a vsock connection and a command or a file.
# Usage: perl guest.pl PORT. A connection begins with a line that says what it is for:
#   echo              sends back what comes
#   output BYTES      sends the output of a command that writes so much
#   input BYTES       feeds so much to a command, and answers with a byte when that has ended
#   file BYTES PATH   writes so much to a file as the agent does (aside, synced, renamed), then the same
use strict;
use IO::Handle;
use Socket;

use constant { AF_VSOCK => 40, VMADDR_CID_ANY => 0xffffffff, CHUNK => 65536 };

sub put {
    my ($to, $data) = @_;
    my $sent = 0;
    while ($sent < length $data) {
        my $wrote = syswrite $to, $data, length($data) - $sent, $sent;
        exit 1 unless defined $wrote;
        $sent += $wrote;
    }
}

sub pour {
    my ($from, $to, $left) = @_;
    while ($left > 0) {
        my $got = sysread $from, my $data, $left < CHUNK ? $left : CHUNK;
        exit 1 unless $got;
        put $to, $data;
        $left -= $got;
    }
}

sub serve {
    my ($peer) = @_;
    my ($line, $byte) = ('', '');
    while (sysread($peer, $byte, 1) && $byte ne "\n") { $line .= $byte }
    my ($what, $bytes, $path) = split ' ', $line;
    if ($what eq 'echo') {
        while (sysread $peer, my $data, CHUNK) { put $peer, $data }
    } elsif ($what eq 'output') {
        open my $pipe, '-|', 'head', '-c', $bytes, '/dev/zero' or die "head: $!";
        pour $pipe, $peer, $bytes;
    } elsif ($what eq 'input') {
        open my $pipe, '|-', 'exec cat > /dev/null' or die "cat: $!";
        pour $peer, $pipe, $bytes;
        close $pipe or die "cat: $?";
        put $peer, '.';
    } elsif ($what eq 'file') {
        open my $file, '>', "$path.aside" or die "$path.aside: $!";
        pour $peer, $file, $bytes;
        $file->sync and close $file and rename "$path.aside", $path or die "$path: $!";
        put $peer, '.';
        unlink $path;
    }
}

my ($port) = @ARGV;
socket my $listener, AF_VSOCK, SOCK_STREAM, 0 or die "socket: $!";
# struct sockaddr_vm, see vsock(7)
bind $listener, pack 'S S L L x4', AF_VSOCK, 0, $port, VMADDR_CID_ANY or die "bind: $!";
listen $listener, 8 or die "listen: $!";
$SIG{CHLD} = 'IGNORE';
$| = 1;
print "ready\n";
while (accept my $peer, $listener) {
    if (fork) { close $peer; next }
    $SIG{CHLD} = 'DEFAULT';
    serve $peer;
    exit 0;
}
