/* A guest's way to its root, and then its init, as some image might have them: neither knows Aetherium,
   but that the second starts the agent, as a systemd unit would. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* In the initramfs: loads the modules, and makes the first disk the root. */
static void find_root(FILE *order) {
    char name[256], path[512];
    mount("devtmpfs", "/dev", "devtmpfs", 0, "");
    while (fgets(name, sizeof name, order)) {
        name[strcspn(name, "\n")] = 0;
        snprintf(path, sizeof path, "/aetherium/modules/%s", name);
        int module = open(path, O_RDONLY);
        syscall(SYS_finit_module, module, "", 0);
        close(module);
    }
    mkdir("/disk", 0755);
    for (int tries = 0; tries < 3000; tries++) {
        if (mount("/dev/vda", "/disk", "ext4", MS_RDONLY, "") == 0) break;
        usleep(10000);
    }
    chdir("/disk");
    mount(".", "/", 0, MS_MOVE, 0);
    chroot(".");
    chdir("/");
    execl("/sbin/init", "/sbin/init", (char *)0);
}

int main(void) {
    FILE *order = fopen("/aetherium/modules.order", "r");
    if (order) {
        find_root(order);
        return 1;
    }
    mount("proc", "/proc", "proc", 0, "");
    mount("sysfs", "/sys", "sysfs", 0, "");
    mount("devtmpfs", "/dev", "devtmpfs", 0, "");
    mount("tmpfs", "/run", "tmpfs", 0, "");
    if (fork() == 0) {
        execl("/usr/local/bin/fc-agent", "fc-agent", "--installed", (char *)0);
        perror("the agent");
        _exit(1);
    }
    for (;;)
        if (wait(0) < 0) pause();
}
