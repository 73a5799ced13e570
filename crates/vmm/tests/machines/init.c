/* A guest's init for tests: does what the kernel argument `behave=` says. The kernel hands arguments
 * it does not know to init as environment variables. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <unistd.h>

static void say(const char *line) { write(1, line, strlen(line)); }

static void power_off(void) {
    sync();
    reboot(RB_POWER_OFF);
}

static void eat_memory(void) {
    for (;;) {
        char *page = malloc(1 << 20);
        if (page) memset(page, 1, 1 << 20);
    }
}

static void crash_kernel(void) {
    mount("proc", "/proc", "proc", 0, 0);
    int trigger = open("/proc/sysrq-trigger", O_WRONLY);
    write(trigger, "c", 1);
}

int main(void) {
    const char *behave = getenv("behave");
    if (!behave) behave = "mute";
    if (!strcmp(behave, "probe")) {
        say("aetherium-init: probe uptime_ms=1\n");
        power_off();
    }
    if (!strcmp(behave, "power-off")) power_off();
    if (!strcmp(behave, "restart")) reboot(RB_AUTOBOOT);
    if (!strcmp(behave, "login")) say("Debian GNU/Linux 12 guest ttyS0\n\nguest login: \n");
    if (!strcmp(behave, "exit")) return 3;
    if (!strcmp(behave, "crash")) *(volatile int *)0 = 1;
    if (!strcmp(behave, "eat")) eat_memory();
    if (!strcmp(behave, "panic")) crash_kernel();
    if (!strcmp(behave, "stages"))
        say("aetherium-init: stage=start uptime_ms=1\naetherium-init: stage=modules uptime_ms=2\n");
    if (!strcmp(behave, "listening"))
        say("aetherium-init: stage=start uptime_ms=1\naetherium-init: stage=listening uptime_ms=2\n");
    if (!strcmp(behave, "fatal")) {
        say("aetherium-init: stage=start uptime_ms=1\n"
            "aetherium-init: fatal code=root_not_found "
            "detail=\"no disk has UUID 0b1e after 5000 ms\" seen=\"vda:ext4:other:77aa,vdb:::\"\n");
        power_off();
    }
    for (;;) pause();
}
